// Measures llama.cpp through the npm package node-llama-cpp: prompts read and answers written, as `quern bench` does.
//
// usage: node node_llama_cpp.mjs MODEL '{"prompts":[512],"answers":[64],"depths":[0],"threads":2}'
// Prints {"pp512": tokens per second, ...}.
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const [path, options] = process.argv.slice(2);
const { prompts, answers, depths, threads } = JSON.parse(options);
const longest = Math.max(...prompts, ...answers) + Math.max(...depths);

const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads });
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
const context = await model.createContext({ contextSize: longest + 64, batchSize: 512, threads, flashAttention: true });
const sequence = context.getSequence();

let draw = 1;
const token = () => (draw = (Math.imul(draw, 1664525) + 1013904223) >>> 0) % 256; // bytes: no token that ends a text
const tokens = (n) => Array.from({ length: n }, token);

async function read(n) {
    await sequence.evaluateWithoutGeneratingNewTokens(tokens(n));
}

async function write(n) {
    let written = 0;
    for await (const _ of sequence.evaluate(tokens(1), { temperature: 0, yieldEogToken: true })) if (++written === n) break;
}

async function keep(depth) {
    const end = sequence.nextTokenIndex;
    if (end > depth) await sequence.eraseContextTokenRanges([{ start: depth, end }]);
}

const result = {};
for (const depth of depths) {
    const suffix = depth ? `@d${depth}` : "";
    await sequence.clearHistory();
    if (depth) await read(depth);
    for (const [name, sizes, run] of [["pp", prompts, read], ["tg", answers, write]]) {
        for (const n of sizes.filter((v) => v > 0)) {
            await run(name === "tg" ? Math.min(n, 4) : n); // warm-up
            await keep(depth);
            const start = process.hrtime.bigint();
            await run(n);
            result[`${name}${n}${suffix}`] = n / (Number(process.hrtime.bigint() - start) * 1e-9);
            await keep(depth);
        }
    }
}
console.log(JSON.stringify(result));
process.exit(0);
