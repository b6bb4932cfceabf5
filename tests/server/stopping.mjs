// See stopping.sh.
import { equal, plan, serve, sleep, verdict } from "./served.mjs";

const messages = [{ role: "user", content: "Tell me a story." }];
const options = { num_predict: 4000, logit_bias: { 16369: -100, 16376: -100, 16377: -100 } }; // no end of text
const endless = { max_tokens: 4000, n_predict: 4000, ignore_eos: true, temperature: 0 };
const server = await serve("--ctx", "4096", "--parallel", "8");

// { status, text, torn }; begun is called at the first bytes.
async function post(path, body, begun) {
    const response = await fetch(`${server.url}${path}`, { method: "POST", body: JSON.stringify(body) });
    let text = "";
    try {
        for await (const bytes of response.body) {
            text += Buffer.from(bytes).toString();
            begun?.();
        }
    } catch (e) {
        return { status: response.status, text, torn: String(e) };
    }
    return { status: response.status, text, torn: null };
}

const streams = [
    ["/v1/chat/completions", { messages, ...endless }],
    ["/v1/chat/completions", { messages, ...endless, n: 2 }],
    ["/v1/completions", { prompt: "Once", ...endless }],
    ["/completion", { prompt: "Once", ...endless }],
    ["/api/chat", { messages, options }],
    ["/api/generate", { prompt: "Once", options }],
];
let waiting;
const allBegun = Promise.all(streams.map(([path, body]) => new Promise((begun) => {
    (waiting ??= []).push(post(path, { ...body, stream: true }, begun));
})));
const whole = post("/v1/chat/completions", { messages, ...endless });
await allBegun;
await sleep(100);
const start = performance.now();
const exited = server.stop();
const ended = await Promise.all(waiting);
for (const [i, { status, text, torn }] of ended.entries()) {
    const [path, body] = streams[i];
    equal(`${path}${body.n ? " with two answers" : ""}: the stream is not torn`, [status, torn], [200, null]);
    const lines = text.trim().split("\n").filter((line) => line && line !== "data: [DONE]");
    const last = JSON.parse(lines.at(-1).replace(/^data: /, ""));
    const ollama = path.startsWith("/api/");
    verdict(/ending/.test(ollama ? last.error : last.error?.message), "and its last event says why", lines.at(-1));
    if (!ollama) equal("and that it may be tried again", [last.error.code, last.error.type], [503, "unavailable_error"]);
}
const refused = await whole;
verdict(refused.status === 503 && /ending/.test(JSON.parse(refused.text).error.message), "what is no stream gets status 503", refused);
equal("the server ends", await exited, { code: 0, signal: null });
verdict(performance.now() - start < 3000, "at once", performance.now() - start);

// ---- what is computed beside the engine and takes long: prompts whose tokens are told, and vectors ----

const long = { prompt: Array(40).fill("hello world ".repeat(1900)), echo: true, logprobs: 1, max_tokens: 1 };
const texts = { input: Array(2048).fill("hello world ".repeat(200)) };
for (const [path, all, one] of [["/v1/completions", long, { ...long, prompt: "hello world" }], ["/v1/embeddings", texts, { input: "hello world" }]]) {
    const other = await serve("--ctx", "4096");
    const ask = (body, signal) => fetch(`${other.url}${path}`, { method: "POST", body: JSON.stringify(body), signal });
    const leaves = new AbortController();
    const left = ask(all, leaves.signal).catch(() => null);
    await sleep(1000);
    leaves.abort();
    await left;
    const gone = performance.now();
    equal(`${path}: a client that leaves`, (await ask(one)).status, 200);
    verdict(performance.now() - gone < 5000, "does not keep others waiting", performance.now() - gone);
    const told = [ask(all), ask(all)].map(async (r) => [(await r).status, (await (await r).json()).error.message]);
    await sleep(1000);
    const end = performance.now();
    equal("the server ends while it reads", await other.stop(), { code: 0, signal: null });
    verdict(performance.now() - end < 3000, "at once, too", performance.now() - end);
    equal("and says so", await Promise.all(told), Array(2).fill([503, "the server is ending"]));
}
plan();
process.exit(0);
