// loras.sh calls it in a folder that has the model conformance/llama_tied and its adapters peft and lora2.gguf.
import { execFileSync } from "node:child_process";
import { equal, plan, serve, sleep, verdict } from "./served.mjs";

const server = await serve("--parallel", "4", "--ctx", "256", "--lora", "peft", "--lora-scaled", "lora2.gguf:0.5");
const prompt = Array.from({ length: 100 }, (_, i) => 3 + ((i * 37) % 300)); // beyond a page of the cache
const N = 12;

// What quern run gives for a list of scales.
function alone(scales) {
    const options = scales.flatMap((s, i) => (s ? ["--lora-scaled", `${["peft", "lora2.gguf"][i]}:${s}`] : []));
    return execFileSync(process.env.QUERN, ["run", process.env.DEMO, "--tokens", prompt.join(","), "--temp", "0", "-n", String(N),
        "--ignore-eos", ...options], { input: "" }).toString().replace(/\n$/, "");
}

async function ask(method, path, body) {
    const reply = await fetch(server.url + path, { method, body: body && JSON.stringify(body) });
    return { status: reply.status, json: await reply.json() };
}
const lora = (scales) => scales.map((scale, id) => ({ id, scale })).filter(({ scale }) => scale);
const common = { prompt, temperature: 0, ignore_eos: true };
const native = async (more) => (await ask("POST", "/completion", { ...common, n_predict: N, ...more })).json.content;
const openai = async (more) => (await ask("POST", "/v1/completions", { ...common, max_tokens: N, ...more })).json.choices[0].text;

const listed = (scales) => [{ id: 0, path: "peft", scale: scales[0] }, { id: 1, path: "lora2.gguf", scale: scales[1] }];
equal("the adapters and their scales", (await ask("GET", "/lora-adapters")).json, listed([1, 0.5]));

const uses = [[0, 0], [1, 0], [0, 1], [0.5, 2], [1, 0.5]];
const want = uses.map(alone);
verdict(new Set(want).size === uses.length, "each use of them writes something else", want);
for (const round of ["", ", from the cache"]) {
    const got = await Promise.all(uses.map((u) => native({ lora: lora(u) })));
    equal(`requests with different adapters at once${round}`, got, want);
}
equal("in OpenAI's form", await Promise.all(uses.map((u) => openai({ lora: lora(u) }))), want);
equal("a request that says nothing", await native({}), want[4]);
equal("null says nothing", await native({ lora: null }), want[4]);
equal("the scales are set", await ask("POST", "/lora-adapters", [{ id: 1, scale: 1 }]), { status: 200, json: { success: true } });
equal("those that are not named are off", (await ask("GET", "/lora-adapters")).json, listed([0, 1]));
equal("and are used", await native({}), want[2]);

const wrong = [
    ["an adapter that is not there", "/completion", { ...common, lora: [{ id: 2, scale: 1 }] }],
    ["a scale that is none", "/completion", { ...common, lora: [{ id: 0, scale: "1" }] }],
    ["no scale", "/v1/completions", { ...common, lora: [{ id: 0 }] }],
    ["no list", "/v1/completions", { ...common, lora: { id: 0, scale: 1 } }],
    ["an object", "/lora-adapters", { id: 0, scale: 1 }],
    ["an id below zero", "/lora-adapters", [{ id: -1, scale: 1 }]],
];
for (const [name, path, body] of wrong) {
    const { status, json } = await ask("POST", path, body);
    verdict(status === 400 && typeof json.error.message === "string", `${name}: 400`, json);
}
equal("nothing has changed", (await ask("GET", "/lora-adapters")).json, listed([0, 1]));
equal("SIGTERM ends it", await Promise.race([server.stop(), sleep(5000)]), { code: 0, signal: null });
plan();
process.exit(0);
