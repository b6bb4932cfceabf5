// Evaluates models in llama.cpp, by way of node-llama-cpp, and compares with what Quern gave. interchange.sh calls it.
//
// usage: node interchange.mjs FOLDER <JOBS     FOLDER has node_modules with node-llama-cpp
// A job is a line of JSON:
//   {name, model, lora, tokens, logits, limit, greedy, unlike}
//   lora     a GGUF adapter that the model is used with; null: none
//   tokens   what the model reads
//   logits   file of Quern's logits after each of them; may be off by `limit`: the root of the mean square of the differences,
//            in standard deviations of the logits; wherever the best token is no near tie, it must be the same
//   greedy   Quern's continuation, which llama.cpp must give too, up to the first token that is a near tie; null: not compared
//   unlike   a file of logits of other weights, which must be off by more than `limit`; null: none
// Prints TAP lines without numbers.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const TIE = 4; // a lead of less than so many times the logits' distance may turn over
const LEAST = 4; // tokens that must be the same even so

const entry = join(process.argv[2], "node_modules/node-llama-cpp/dist/index.js");
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry));
// One thread: several wait for each other by spinning, which takes minutes where other programs run.
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1 }).catch((error) => {
    console.log(`1..0 # SKIP llama.cpp does not start here: ${error.message.split("\n")[0]}`);
    process.exit(0);
});

const percent = (x) => `${(100 * x).toFixed(3)} %`;

const deviation = (x) => {
    const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
    return Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length);
};

// Root of the mean square of the differences of two lists of rows, in deviations of the first.
function distanceOf(want, got) {
    let square = 0, spread = 0;
    want.forEach((row, i) => {
        square += row.reduce((sum, v, j) => sum + (v - got[i][j]) ** 2, 0) / row.length;
        spread += deviation(row) ** 2;
    });
    return Math.sqrt(square / spread);
}

// A file of logits as rows.
function rows(path, n) {
    const bytes = readFileSync(path);
    const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    return Array.from({ length: n }, (_, i) => all.subarray((i * all.length) / n, ((i + 1) * all.length) / n));
}

// The two largest of a row: the token, and by how much it is ahead in deviations.
function top(row) {
    let best = 0, second = -1;
    for (let i = 1; i < row.length; i++) {
        if (row[i] > row[best]) [best, second] = [i, best];
        else if (second < 0 || row[i] > row[second]) second = i;
    }
    return { token: best, lead: (row[best] - row[second]) / deviation(row) };
}

// The logits after each of the tokens.
async function evaluate(sequence, tokens) {
    const results = await sequence.controlledEvaluate(tokens.map((t) => [t, { generateNext: { logits: true } }]));
    return results.map(({ next }) => {
        const row = new Float32Array(next.logits.size);
        for (const [token, logit] of next.logits) row[token] = logit;
        return row;
    });
}

function report(good, name, ...notes) {
    for (const note of notes) console.log(`# ${note}`);
    console.log(`${good ? "ok" : "not ok"} - ${name}`);
}

async function compareGreedy(name, sequence, row, greedy, distance) {
    let same = 0, tied = false;
    for (; same < greedy.length; same++) {
        const { token, lead } = top(row);
        if (token !== greedy[same]) {
            tied = lead < TIE * distance;
            break;
        }
        if (same + 1 < greedy.length) [row] = await evaluate(sequence, [token]);
    }
    const note = `${same} of ${greedy.length}${tied ? ", then a near tie" : ""}`;
    report(same >= LEAST && (same === greedy.length || tied), `${name}: the same tokens`, note);
}

async function compare({ name, model: path, lora, tokens, logits, limit, greedy, unlike }) {
    const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
    const context = await model.createContext({
        contextSize: 256, threads: 1, flashAttention: false,
        lora: lora ? { adapters: [{ filePath: lora, scale: 1 }] } : undefined,
        experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32",
    });
    const sequence = context.getSequence();
    const theirs = await evaluate(sequence, tokens), ours = rows(logits, tokens.length);
    const distance = distanceOf(theirs, ours);
    report(distance <= limit, `${name}: the same logits`, `off by ${percent(distance)}, ${percent(limit)} allowed`);
    const clear = theirs.map((row, i) => i).filter((i) => top(theirs[i]).lead >= TIE * distance);
    const agreed = clear.filter((i) => top(theirs[i]).token === top(ours[i]).token).length;
    report(agreed === clear.length && 2 * agreed >= tokens.length, `${name}: the same best token`,
        `${agreed} of ${clear.length} that are no near ties, of ${tokens.length}`);
    if (unlike) {
        const far = distanceOf(theirs, rows(unlike, tokens.length));
        report(far > limit, `${name}: not those of other weights`, `off by ${percent(far)}`);
    }
    if (greedy) await compareGreedy(name, sequence, theirs.at(-1), greedy, distance);
    await model.dispose();
}

for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
    const job = JSON.parse(line);
    try {
        await compare(job);
    } catch (error) {
        report(false, `${job.name}: llama.cpp reads it`, String(error.message).split("\n")[0]);
    }
}
process.exit(0); // what the addon still holds may keep the process alive
