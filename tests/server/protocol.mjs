import { connect } from "node:net";
import { equal, plan, serve, sleep, verdict } from "./served.mjs";

const KEY = "secret";
const server = await serve("--jinja", "--metrics", "--embeddings", "-cb", "--no-webui", "--parallel", "2", "--ctx", "256", "--body-limit", "1", "--api-key", KEY,
    "--allow-origin", "https://app.example");
const CHAT = "/v1/chat/completions";
const messages = [{ role: "user", content: "Hello" }];
const chat = (more) => JSON.stringify({ messages, max_tokens: 2, ...more });
const ollama = (more) => JSON.stringify({ messages, stream: false, options: { num_predict: 2 }, ...more });
const deep = (n) => `{"messages":${"[".repeat(n)}${"]".repeat(n)}}`;

// path, body, status, what the message says; method, headers
const wrong = [
    ["bad JSON", CHAT, "{", 400, /body/],
    ["no body", CHAT, "", 400, /JSON object/],
    ["an array", CHAT, "[]", 400, /JSON object/],
    ["a number", CHAT, "1", 400, /JSON object/],
    ["two values", CHAT, "{} {}", 400, /body/],
    ["invalid UTF-8", CHAT, Buffer.from([...Buffer.from('{"messages":[{"role":"user","content":"'), 0xff, 0xc0,
        ...Buffer.from('"}]}')]), 400, /UTF-8/],
    ["deep nesting", CHAT, deep(100000), 400, /./],
    ["no messages", CHAT, "{}", 400, /messages/],
    ["empty messages", CHAT, chat({ messages: [] }), 400, /messages/],
    ["messages of another type", CHAT, chat({ messages: "Hello" }), 400, /messages/],
    ["a message of another type", CHAT, chat({ messages: ["Hello"] }), 400, /message 0/],
    ["a message without a role", CHAT, chat({ messages: [{ content: "x" }] }), 400, /role/],
    ["a role of another type", CHAT, chat({ messages: [{ role: 1, content: "x" }] }), 400, /role/],
    ["content of another type", CHAT, chat({ messages: [{ role: "user", content: 42 }] }), 400, /content/],
    ["an image", CHAT, chat({ messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] }), 400, /message 0.*text only.*image_url/],
    ["a part of another type", CHAT, chat({ messages: [{ role: "user", content: [1] }] }), 400, /content/],
    ["tools of another type", CHAT, chat({ tools: "x" }), 400, /tools/],
    ["template variables of another type", CHAT, chat({ chat_template_kwargs: [1] }), 400, /chat_template_kwargs/],
    ["temperature as text", CHAT, chat({ temperature: "1" }), 400, /temperature/],
    ["temperature below zero", CHAT, chat({ temperature: -1 }), 400, /temperature/],
    ["a number beyond doubles", CHAT, '{"messages":[{"role":"user","content":"x"}],"temperature":1e999}', 400, /./],
    ["a number beyond integers", CHAT, '{"messages":[{"role":"user","content":"x"}],"max_tokens":99999999999999999999}', 400, /max_tokens/],
    ["a fraction of a token", CHAT, chat({ max_tokens: 1.5 }), 400, /max_tokens/],
    ["tokens below zero", CHAT, chat({ max_tokens: -5 }), 400, /max_tokens/],
    ["stream as text", CHAT, chat({ stream: "yes" }), 400, /stream/],
    ["stream_options of another type", CHAT, chat({ stream: true, stream_options: 1 }), 400, /stream_options/],
    ["stop of another type", CHAT, chat({ stop: 1 }), 400, /stop/],
    ["too many stop strings", CHAT, chat({ stop: Array(17).fill("x") }), 400, /stop/],
    ["no answers", CHAT, chat({ n: 0 }), 400, /"n"/],
    ["too many answers", CHAT, chat({ n: 65 }), 400, /"n".*64/],
    ["a number that must be whole", CHAT, chat({ max_tokens: -2 }), 400, /from -1 to 2147483647/],
    ["too many logprobs", CHAT, chat({ logprobs: true, top_logprobs: 21 }), 400, /top_logprobs/],
    ["bias of a token that is not there", CHAT, chat({ logit_bias: { 99999999: 1 } }), 400, /logit_bias/],
    ["bias of another type", CHAT, chat({ logit_bias: [1] }), 400, /logit_bias/],
    ["prompt and answer beyond the context", CHAT, chat({ max_tokens: 1000 }), 400, /\d+ tokens of prompt.*1000.*256/],
    ["a prompt beyond the context", CHAT, chat({ messages: [{ role: "user", content: "boat ".repeat(999) }] }), 400, /\d+ tokens.*256/],
    ["a body over the limit", CHAT, chat({ messages: [{ role: "user", content: "x".repeat(2 << 20) }] }), 413, /body-limit/],
    ["no prompt", "/v1/completions", "{}", 400, /prompt/],
    ["an empty array as prompt", "/v1/completions", '{"prompt":[]}', 400, /prompt/],
    ["a token that is not there", "/v1/completions", '{"prompt":[-1]}', 400, /prompt/],
    ["too many prompts", "/v1/completions", JSON.stringify({ prompt: Array(65).fill("a") }), 400, /"prompt" has 65 prompts; at most 64/],
    ["too many answers to prompts", "/v1/completions", JSON.stringify({ prompt: Array(33).fill("a"), n: 2 }), 400, /"n" must be a number from 1 to 1/],
    ["a list with another thing", "/v1/completions", '{"prompt":["a",{}]}', 400, /"prompt" must be a text, or an array of token ids/],
    ["an empty list", "/v1/completions", '{"prompt":[]}', 400, /"prompt" must be/],
    ["a suffix", "/v1/completions", '{"prompt":"a","suffix":"b"}', 400, /suffix/],
    ["the best of two", "/v1/completions", '{"prompt":"a","best_of":2}', 400, /best_of/],
    ["no input", "/v1/embeddings", "{}", 400, /input/],
    ["input of another type", "/v1/embeddings", '{"input":[[{}]]}', 400, /"input" .*token ids/],
    ["too many dimensions", "/v1/embeddings", '{"input":"x","dimensions":99999}', 400, /dimensions/],
    ["documents of another type", "/v1/rerank", '{"query":"x","documents":[1]}', 400, /documents/],
    ["no query", "/rerank", '{"documents":["x"]}', 400, /query/],
    ["the best of three, of which two are given", "/v1/completions", '{"prompt":"a","best_of":3,"n":2}', 400, /best_of/],
    ["probabilities behind sampling", "/completion", '{"prompt":"x","post_sampling_probs":true}', 400, /post_sampling_probs/],
    ["too many probabilities", "/completion", '{"prompt":"x","n_probs":21}', 400, /n_probs/],
    ["a template without messages", "/apply-template", "{}", 400, /messages/],
    ["n_predict of another type", "/completion", '{"prompt":"x","n_predict":"x"}', 400, /n_predict/],
    ["an unknown path", "/v1/nothing", "{}", 404, /nothing/],
    ["Anthropic's path", "/v1/messages", "{}", 404, /\/v1\/chat\/completions/],
    ["OpenAI's newer path", "/v1/responses", "{}", 404, /\/v1\/chat\/completions/],
    ["a path of llama-server", "/infill", "{}", 404, /\/completion.*\/slots/],
    ["another model", "/v1/models/x", undefined, 404, /"x"/, "GET"],
    ["a wrong method", CHAT, undefined, 405, /GET/, "GET"],
    ["another wrong method", "/health", "{}", 405, /DELETE/, "DELETE"],
    ["no API key", CHAT, chat(), 401, /key/, "POST", { authorization: undefined }],
    ["a wrong API key", CHAT, chat(), 401, /key/, "POST", { authorization: `Bearer ${KEY}x` }],
    ["a bad Host", CHAT, chat(), 403, /Host/, "POST", { host: "evil.example" }],
    ["a Host that begins as ours", CHAT, chat(), 403, /Host/, "POST", { host: "localhost.evil.example" }],
    ["a bad Origin", CHAT, chat(), 403, /pages/, "POST", { origin: "https://evil.example" }],
    ["an Origin that begins as ours", CHAT, chat(), 403, /pages/, "POST", { origin: "http://localhost.evil.example" }],
    ["an Origin that is none", CHAT, chat(), 403, /pages/, "POST", { origin: "null" }],
    ["tokens of another type", "/detokenize", '{"tokens":["x"]}', 400, /token/],
    ["content of another type", "/tokenize", '{"content":1}', 400, /content/],
    ["Ollama: bad JSON", "/api/chat", "{", 400, /body/],
    ["Ollama: messages of another type", "/api/chat", ollama({ messages: 1 }), 400, /messages/],
    ["Ollama: options of another type", "/api/chat", ollama({ options: "x" }), 400, /options/],
    ["Ollama: an option of another type", "/api/chat", ollama({ options: { top_k: "x" } }), 400, /top_k/],
    ["Ollama: an image", "/api/chat", ollama({ messages: [{ role: "user", content: "x", images: ["iVBORw0KGgo="] }] }), 400, /images/],
    ["Ollama: an image beside a prompt", "/api/generate", ollama({ prompt: "x", images: ["iVBORw0KGgo="] }), 400, /images/],
    ["Ollama: beyond the context", "/api/generate", ollama({ prompt: "boat ".repeat(999) }), 400, /\d+ tokens.*256/],
    ["Ollama: beyond the context in a stream", "/api/generate", ollama({ prompt: "boat ".repeat(999), stream: true }), 400, /256/],
    ["Ollama: a prompt of another type", "/api/generate", ollama({ prompt: 1 }), 400, /prompt/],
    ["Ollama: an unknown path", "/api/pull", "{}", 404, /pull.*\/api\/chat/],
];

// One request as bytes, since fetch does not send a Host of its own choice: { status, headers, body }.
function send(method, path, body, headers = {}) {
    const bytes = Buffer.from(body ?? "");
    const all = { host: `127.0.0.1:${server.port}`, authorization: `Bearer ${KEY}`, connection: "close",
        "content-length": bytes.length, ...headers };
    const lines = Object.entries(all).filter(([, v]) => v !== undefined).map(([k, v]) => `${k}: ${v}\r\n`);
    return raw(Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n`), bytes]));
}

function raw(bytes) {
    return new Promise((resolve) => {
        const parts = [];
        const socket = connect(server.port, "127.0.0.1", () => socket.write(bytes));
        const done = () => {
            const text = Buffer.concat(parts).toString();
            const [head, ...rest] = text.split("\r\n\r\n");
            resolve({ status: Number(head.split(" ")[1]), headers: head.toLowerCase(), body: rest.join("\r\n\r\n") });
        };
        socket.setTimeout(10000, () => socket.destroy());
        socket.on("data", (d) => parts.push(d));
        socket.on("error", () => {});
        socket.on("close", done);
    });
}

function message(path, body) {
    try {
        const error = JSON.parse(body).error;
        return path.startsWith("/api/") ? error : typeof error.type === "string" ? error.message : undefined;
    } catch {
        return undefined;
    }
}

for (const [name, path, body, status, says, method = "POST", headers] of wrong) {
    const got = await send(method, path, body, headers);
    const text = message(path, got.body);
    verdict(got.status === status && typeof text === "string" && says.test(text), `${name}: ${status}`, got);
}

const preflight = await send("OPTIONS", CHAT, "", { origin: "https://app.example", authorization: undefined,
    "access-control-request-method": "POST", "access-control-request-headers": "authorization" });
equal("a preflight needs no key", preflight.status, 204);
verdict(preflight.headers.includes("access-control-allow-origin: https://app.example\r\n") &&
    /access-control-allow-headers: .*authorization/.test(preflight.headers), "and allows what was allowed", preflight);
const stainless = await send("OPTIONS", CHAT, "", { origin: "https://app.example", "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, x-stainless-lang, x-api-key" });
verdict(/access-control-allow-headers: authorization, x-stainless-lang, x-api-key/.test(stainless.headers),
    "a preflight allows the headers that it asks for", stainless);
equal("a preflight of another site", (await send("OPTIONS", CHAT, "", { origin: "https://evil.example" })).status, 403);
equal("a page of this machine", (await send("POST", CHAT, chat(), { origin: "http://localhost:3000" })).status, 200);
equal("x-api-key", (await send("POST", CHAT, chat(), { authorization: undefined, "x-api-key": KEY })).status, 200);
const nothing = JSON.parse((await send("POST", CHAT, chat({ max_tokens: 0 }))).body);
equal("max_tokens 0 writes nothing", [nothing.choices[0].message.content, nothing.usage.completion_tokens], ["", 0]);
const warmed = JSON.parse((await send("POST", "/completion", '{"prompt":"x","n_predict":0}')).body);
equal("nor does n_predict 0", [warmed.content, warmed.tokens_predicted], ["", 0]);
equal("max_tokens -1 is no limit", (await send("POST", CHAT, chat({ max_tokens: -1, temperature: 0 }))).status, 200);
for (const [method, path, body] of [["POST", "/chat/completions", chat()], ["GET", "/models", ""], ["POST", "/completions",
    '{"prompt":"x","n_predict":1}'], ["POST", "/v1/reranking", '{"query":"x","documents":["y"]}']])
    equal(`llama-server's ${path}`, (await send(method, path, body)).status, 200);
equal("no images are none", (await send("POST", "/api/chat", ollama({ messages: [{ role: "user", content: "x", images: [] }] }))).status, 200);
for (const path of ["/health", "/v1/health"])
    equal(`${path} needs no key`, (await send("GET", path, "", { authorization: undefined })).status, 200);
const head = await send("HEAD", "/health");
equal("HEAD has no body", [head.status, head.body], [200, ""]);
equal("null is as if it were not there", (await send("POST", CHAT, chat({ temperature: null, stop: null, tools: null }))).status, 200);
equal("half a surrogate pair becomes U+FFFD", (await send("POST", CHAT,
    '{"messages":[{"role":"user","content":"\\ud800"}],"max_tokens":2}')).status, 200);
equal("a conversation in parts", (await send("POST", CHAT,
    chat({ messages: [{ role: "user", content: [{ type: "text", text: "Hello" }] }] }))).status, 200);

await raw(Buffer.from("no HTTP at all\r\n\r\n"));
const half = connect(server.port, "127.0.0.1", () => half.write(`POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{`));
half.on("error", () => {});
await sleep(50);
equal("half a request does not hold up others", (await send("POST", CHAT, chat())).status, 200);
half.destroy();
equal("SIGTERM ends it", await Promise.race([server.stop(), sleep(5000)]), { code: 0, signal: null });
plan();
process.exit(0);
