import { createRequire } from "node:module";
import { equal, metric, plan, raised, serve, sleep, verdict } from "./served.mjs";

const require = createRequire(`${process.env.CLIENTS}/`);
const OpenAI = require("openai");
const { Ollama } = require("ollama");

const CROWD = 32;
const HEALTH_MS = 250;

const server = await serve("--parallel", "8", "--ctx", "1024");
const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
const ollama = new Ollama({ host: server.url });

const ask = (text) => [{ role: "user", content: text }];
const question = ask("Tell me about a red boat.");
const greedy = { model: "demo", messages: question, max_tokens: 24, temperature: 0 };

async function streamed(request) {
    let text = "", finish = null, usage = null, chunks = 0;
    for await (const chunk of await openai.chat.completions.create({ ...request, stream: true })) {
        text += chunk.choices[0]?.delta?.content ?? "";
        finish = chunk.choices[0]?.finish_reason ?? finish;
        usage = chunk.usage ?? usage;
        chunks++;
    }
    return { text, finish, usage, chunks };
}

// ---- OpenAI ----

const models = (await openai.models.list()).data;
equal("one model", models.length, 1);
equal("the model by its name", (await openai.models.retrieve(models[0].id)).id, models[0].id);
verdict((await raised(openai.models.retrieve("another"))) instanceof OpenAI.NotFoundError, "another model is not found");

const whole = await openai.chat.completions.create(greedy);
equal("role", whole.choices[0].message.role, "assistant");
verdict(whole.choices[0].message.content.length > 0, "an answer", whole);
equal("usage adds up", whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
const stream = await streamed({ ...greedy, stream_options: { include_usage: true } });
equal("a stream has the same text", stream.text, whole.choices[0].message.content);
equal("and the same end", stream.finish, whole.choices[0].finish_reason);
equal("and the same usage", stream.usage.completion_tokens, whole.usage.completion_tokens);
verdict(stream.chunks > 2, "in several pieces", stream);
equal("no usage unless asked", (await streamed(greedy)).usage, null);

const long = ask("Once upon a time there was a little boat. ".repeat(20));
const first = await openai.chat.completions.create({ ...greedy, messages: long });
const again = await openai.chat.completions.create({ ...greedy, messages: long });
verdict(again.usage.prompt_tokens_details.cached_tokens > 0, "tokens of a prompt that was seen are cached", again.usage);
equal("with the same answer", again.choices[0].message.content, first.choices[0].message.content);

const seeded = { ...greedy, temperature: 1, seed: 7 };
const draws = await Promise.all([7, 7, 8].map((seed) => openai.chat.completions.create({ ...seeded, seed })));
equal("same seed, same text", draws[0].choices[0].message.content, draws[1].choices[0].message.content);
verdict(draws[0].choices[0].message.content !== draws[2].choices[0].message.content, "another seed, another text");

const word = whole.choices[0].message.content.trim().split(/\s+/)[2];
const stopped = await openai.chat.completions.create({ ...greedy, stop: [word] });
equal("ends before a stop string", stopped.choices[0].message.content, whole.choices[0].message.content.split(word)[0]);
equal("and says so", stopped.choices[0].finish_reason, "stop");
const short = await openai.chat.completions.create({ ...greedy, max_tokens: 2 });
equal("ends at max_tokens", [short.choices[0].finish_reason, short.usage.completion_tokens], ["length", 2]);

const probs = (await openai.chat.completions.create({ ...greedy, max_tokens: 4, logprobs: true, top_logprobs: 3 })).choices[0];
equal("a logprob for each token", probs.logprobs.content.length, 4);
verdict(probs.logprobs.content.every((p) => p.top_logprobs.length === 3 && p.top_logprobs[0].token === p.token),
    "greedy takes the likeliest", probs.logprobs);
async function streamedProbs(create, request, of) {
    const all = [];
    for await (const chunk of await create({ ...request, stream: true })) all.push(...(of(chunk.choices[0].logprobs) ?? []));
    return all;
}
for (const stop of [undefined, word]) {
    const request = { ...greedy, max_tokens: 100, stop, logprobs: true };
    const { choices: [{ logprobs, finish_reason }] } = await openai.chat.completions.create(request);
    equal(`a stream has those of its last tokens, too: ${stop ?? "end of text"}`,
        [finish_reason, await streamedProbs((r) => openai.chat.completions.create(r), request, (p) => p?.content)],
        ["stop", logprobs.content]);
}
const cut = { model: "demo", prompt: "The capital of Spain is", temperature: 0, max_tokens: 40, logprobs: 0, stop: "." };
equal("and one of completions", await streamedProbs((r) => openai.completions.create(r), cut, (p) => p?.token_logprobs),
    (await openai.completions.create(cut)).choices[0].logprobs.token_logprobs);
const older = (await openai.completions.create({ model: "demo", prompt: "Once upon a time", temperature: 0, max_tokens: 4, logprobs: 2 })).choices[0];
const { tokens, token_logprobs, top_logprobs, text_offset } = older.logprobs;
equal("completions have them in arrays", [tokens.join(""), token_logprobs.length, text_offset], [older.text, 4, tokens.map((_, i) => tokens.slice(0, i).join("").length)]);
verdict(top_logprobs.every((top, i) => Object.keys(top).length === 2 && top[tokens[i]] === token_logprobs[i]), "with the likeliest", older.logprobs);
equal("tokens are the text", probs.logprobs.content.map((p) => p.token).join("").trim(), probs.message.content.trim());

const completion = await openai.completions.create({ model: "demo", prompt: "Once upon a time", max_tokens: 8, temperature: 0 });
equal("a completion", completion.usage.completion_tokens, 8);
let completed = "";
for await (const chunk of await openai.completions.create(
    { model: "demo", prompt: "Once upon a time", max_tokens: 8, temperature: 0, stream: true }))
    completed += chunk.choices[0].text;
equal("a stream of it", completed, completion.choices[0].text);

verdict((await raised(openai.chat.completions.create({ ...greedy, temperature: -1 }))) instanceof OpenAI.BadRequestError,
    "a bad request is raised as one");
const over = await raised(openai.chat.completions.create({ ...greedy, messages: ask("boat ".repeat(3000)) }));
verdict(over instanceof OpenAI.BadRequestError && /\d+ tokens.*1024/.test(over.message), "too long: with the counts", over?.message);

// Several answers from one prompt: each draws with a seed of its own, and all that they have in common is computed once.
const several = { ...seeded, messages: long.concat(ask("And then?")), n: 3 };
const choices = await openai.chat.completions.create(several);
equal("several answers", choices.choices.map((x) => x.index), [0, 1, 2]);
const singles = await Promise.all([0, 1, 2].map((i) => openai.chat.completions.create({ ...several, n: 1, seed: 7 + i })));
const contents = singles.map((s) => s.choices[0].message.content);
equal("are those that their seeds give alone", choices.choices.map((x) => x.message.content), contents);
verdict(new Set(contents).size === 3, "which differ", contents);
equal("the prompt counts once", choices.usage.completion_tokens, singles.reduce((sum, s) => sum + s.usage.completion_tokens, 0));
const heard = ["", "", ""], ends = [];
let total = null;
for await (const chunk of await openai.chat.completions.create({ ...several, stream: true, stream_options: { include_usage: true } })) {
    for (const x of chunk.choices) heard[x.index] += x.delta.content ?? "", x.finish_reason && ends.push(x.index);
    total = chunk.usage ?? total;
}
equal("and in a stream, by their index", heard, contents);
equal("each ends once", ends.sort(), [0, 1, 2]);
equal("with the usage of all", total.completion_tokens, choices.usage.completion_tokens);
const reused = () => metric(server, "quern:prompt_tokens_reused_total");
const fresh = ask("Never was there a smaller boat on a larger lake. ".repeat(20));
const reusedBefore = await reused();
const { usage: once } = await openai.chat.completions.create({ ...several, messages: fresh, n: 4, max_tokens: 1 });
verdict((await reused()) - reusedBefore >= 3 * (once.prompt_tokens - 64), "what they have in common is computed once", once);
equal("completions, too", (await openai.completions.create({ model: "demo", prompt: "Once", n: 2, best_of: 2, max_tokens: 2 })).choices.length, 2);

// What begins like a call of a tool, and is none, is text; whole and in a stream.
const brace = (await (await fetch(`${server.url}/tokenize`, { method: "POST", body: '{"content":"{"}' })).json()).tokens.at(-1);
const tools = [{ type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } }];
const braces = { ...greedy, tools, max_tokens: 3, logit_bias: { [brace]: 100 } };
const text = (await openai.chat.completions.create(braces)).choices[0];
equal("no call of a tool", [text.message.content, text.finish_reason, text.message.tool_calls], ["{{{", "length", undefined]);
equal("nor in a stream", (await streamed(braces)).text, "{{{");

// ---- Ollama ----

const chat = { model: "demo", messages: question, options: { num_predict: 24, temperature: 0 } };
const told = await ollama.chat(chat);
equal("Ollama's chat has the text of OpenAI's", told.message.content, whole.choices[0].message.content);
equal("with its counts", [told.done, told.prompt_eval_count, told.eval_count],
    [true, whole.usage.prompt_tokens, whole.usage.completion_tokens]);
let pieces = "", last = null;
for await (const part of await ollama.chat({ ...chat, stream: true })) pieces += part.message.content, last = part;
equal("a stream has the same text", pieces, told.message.content);
equal("and ends", last.done, true);
const generate = { model: "demo", prompt: question[0].content, options: chat.options };
equal("generate, with the template", (await ollama.generate(generate)).response, told.message.content);
pieces = "";
for await (const part of await ollama.generate({ ...generate, stream: true })) pieces += part.response;
equal("a stream of it", pieces, told.message.content);
const raw = await ollama.generate({ model: "demo", prompt: "Once upon a time", raw: true, options: { num_predict: 8, temperature: 0 } });
equal("raw, as a completion", raw.response, completion.choices[0].text);
equal("list", (await ollama.list()).models[0].name, models[0].id);
equal("ps", (await ollama.ps()).models[0].context_length, 1024);
const show = await ollama.show({ model: models[0].id });
verdict(show.details.format === "gguf" && show.template.length > 0 && show.capabilities.join() === "completion", "show", show.details);
verdict(/^\d+\.\d+\.\d+$/.test((await ollama.version()).version), "version");
const wrong = await raised(ollama.chat({ ...chat, options: { temperature: "warm" } }));
verdict(wrong?.status_code === 400 && /temperature/.test(wrong.message), "an error is raised", wrong?.message);

// ---- llama-server ----

const native = (more) => fetch(`${server.url}/completion`, { method: "POST",
    body: JSON.stringify({ prompt: "Once upon a time", n_predict: 8, temperature: 0, ...more }) }).then((r) => r.text());
const finished = JSON.parse(await native());
equal("its completion", [finished.content, finished.stop_type, finished.tokens_predicted], [completion.choices[0].text, "limit", 8]);
const events = (await native({ stream: true })).trim().split("\n\n").map((line) => JSON.parse(line.slice("data: ".length)));
const { timings } = finished;
verdict(Math.abs(timings.predicted_per_second - timings.predicted_n / timings.predicted_ms * 1e3) < 0.01 * timings.predicted_per_second &&
    timings.prompt_per_second >= 0, "speeds", timings);
equal("a stream of it", events.map((e) => e.content).join(""), finished.content);
equal("and its end", events.map((e) => e.stop).indexOf(true), events.length - 1);

const likely = JSON.parse(await native({ n_probs: 3 })).completion_probabilities;
verdict(likely.length === 8 && likely.every((p) => p.top_logprobs.length === 3 && p.top_logprobs[0].id === p.id && p.logprob <= 0),
    "n_probs", likely);
equal("are those of its tokens", likely.map((p) => p.token).join(""), finished.content);
const probable = (await native({ n_probs: 3, stream: true })).trim().split("\n\n").map((line) => JSON.parse(line.slice(6)));
equal("and in a stream", probable.flatMap((e) => e.completion_probabilities ?? []), likely);

const get = async (path) => (await fetch(`${server.url}${path}`)).json();
const send = async (path, body) => (await fetch(`${server.url}${path}`, { method: "POST", body: JSON.stringify(body) })).json();
const { prompt } = await send("/apply-template", { messages: question });
verdict(prompt.includes(question[0].content) && prompt.endsWith("assistant<|end_header_id|>\n\n"), "apply-template", prompt);
const rendered = await send("/completion", { prompt: prompt.replace("<|begin_of_text|>", ""), n_predict: 24, temperature: 0 });
equal("its prompt gets the answer of the chat", rendered.content, whole.choices[0].message.content);

const { tokens: pieces0 } = await send("/tokenize", { content: "A caf\u00e9 \u65e5", with_pieces: true });
const bytes = pieces0.flatMap(({ piece }) => (typeof piece === "string" ? [...Buffer.from(piece)] : piece));
equal("pieces of tokens", Buffer.from(bytes).toString(), "A caf\u00e9 \u65e5");
verdict(pieces0.some(({ piece }) => Array.isArray(piece)), "as bytes where they are no characters", pieces0);

const props = await get("/props");
equal("props", [props.total_slots, props.default_generation_settings.n_ctx, props.model_alias, props.bos_token],
    [8, 1024, models[0].id, "<|begin_of_text|>"]);
verdict(props.chat_template === show.template && props.model_path.endsWith(".gguf") &&
    Math.abs(props.default_generation_settings.params.temperature - 0.7) < 1e-6, "with what the model asks for", props);
const idle = await get("/slots");
verdict(idle.length === 8 && idle.every((x, i) => x.id === i && x.n_ctx === 1024 && !x.is_processing), "slots", idle);
let working, full, of7 = 0;
for await (const chunk of await openai.chat.completions.create({ ...several, n: 8, max_tokens: 400, ignore_eos: true, stream: true })) {
    if (chunk.choices[0].index !== 7 || ++of7 < 20) continue; /* slots are as of the last step, which may end after its tokens */
    working = await get("/slots");
    full = await fetch(`${server.url}/slots?fail_on_no_slot=1`);
    break;
}
equal("all are taken", full.status, 503);
verdict(working.every((x) => x.is_processing && x.params.n_predict === 400 && x.next_token[0].n_decoded > 0 &&
    x.next_token[0].n_remain === 400 - x.next_token[0].n_decoded && x.n_prompt_tokens === choices.usage.prompt_tokens &&
    x.n_prompt_tokens_processed + x.n_prompt_tokens_cache === x.n_prompt_tokens), "by requests", working);
equal("with their seeds", working.map((x) => x.params.seed).sort((x, y) => x - y), [7, 8, 9, 10, 11, 12, 13, 14]);

// ---- vectors ----

const texts = ["A red boat.", "A boat that is red.", "Seven."];
const vectors = (await openai.embeddings.create({ model: "demo", input: texts })).data.map((d) => d.embedding);
const plain = await openai.embeddings.create({ model: "demo", input: texts[1], encoding_format: "float" });
equal("vectors as bytes are those as numbers", vectors[1].map(Math.fround), plain.data[0].embedding.map(Math.fround));
verdict(plain.usage.prompt_tokens > 0, "with usage", plain.usage);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
verdict(Math.abs(dot(vectors[0], vectors[0]) - 1) < 1e-5, "of length 1");
verdict(dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2]), "near where the texts are");
equal("Ollama's are the same", (await ollama.embed({ model: "demo", input: texts })).embeddings[2].map(Math.fround),
    vectors[2].map(Math.fround));

equal("and in its older form", (await ollama.embeddings({ model: "demo", prompt: texts[2] })).embedding.map(Math.fround),
    vectors[2].map(Math.fround));
const ranked = await (await fetch(`${server.url}/v1/rerank`, { method: "POST",
    body: JSON.stringify({ query: texts[0], documents: [texts[2], texts[1], texts[0]], top_n: 2 }) })).json();
equal("documents by their scores", ranked.results.map((r) => r.index), [2, 1]);

// ---- many at once ----

const crowd = Array.from({ length: CROWD }, (_, i) =>
    ({ ...greedy, messages: ask(`Tell me story number ${i}.`), max_tokens: 16 + i, temperature: 1, seed: i }));
const alone = [];
for (const request of crowd) alone.push((await streamed(request)).text);
const waits = [];
let busy = true;
const watch = (async () => {
    while (busy) {
        const start = performance.now();
        await (await fetch(`${server.url}/health`)).text();
        waits.push(performance.now() - start);
        await sleep(5);
    }
})();
const together = (await Promise.all(crowd.map(streamed))).map((s) => s.text);
busy = false;
await watch;
verdict(together.every((text, i) => text === alone[i]), `${CROWD} clients together get what each gets alone`);
waits.sort((a, b) => a - b);
const p99 = waits[Math.floor(waits.length * 0.99)];
console.log(`# /health: ${waits.length} calls, median ${waits[waits.length >> 1].toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`);
verdict(p99 < HEALTH_MS, `/health answers meanwhile within ${HEALTH_MS} ms`, p99);

// ---- clients that leave ----

const endless = { ...greedy, max_tokens: 900, ignore_eos: true };

async function processing(n, ms) {
    for (const until = performance.now() + ms; performance.now() < until; await sleep(10))
        if ((await metric(server, "llamacpp:requests_processing")) === n) return true;
    return false;
}

const left = await openai.chat.completions.create({ ...endless, stream: true });
for await (const chunk of left) if (chunk.choices[0].delta.content) break;
verdict(await processing(0, 1000), "a client that leaves a stream frees its place");
const leaving = new AbortController();
const waiting = raised(openai.chat.completions.create({ ...endless, stream: false }, { signal: leaving.signal }));
verdict(await processing(1, 2000), "one that waits takes a place");
leaving.abort();
verdict((await waiting) instanceof OpenAI.APIUserAbortError && (await processing(0, 1000)), "and frees it when it leaves");

// ---- a full queue, and the end ----

const small = await serve("--parallel", "1", "--queue", "1", "--ctx", "4096");
const post = (body) => fetch(`${small.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(body) });
const hold = { ...greedy, max_tokens: 3900, ignore_eos: true };
const running = await post({ ...hold, stream: true });
const queued = raised(post(hold).then((r) => r.text()));
while ((await metric(small, "llamacpp:requests_deferred")) !== 1) await sleep(5);
const refused = await post(hold);
equal("a full queue is 503", refused.status, 503);
equal("with Retry-After", refused.headers.get("retry-after"), "1");
equal("and its type", (await refused.json()).error.type, "unavailable_error");
const streaming = raised(running.text());
const stopping = performance.now();
const end = await Promise.race([small.stop(), sleep(5000)]);
equal("SIGTERM ends it", end, { code: 0, signal: null });
console.log(`# ended after ${(performance.now() - stopping).toFixed(0)} ms`);
await Promise.all([streaming, queued]);
equal("and the other", await Promise.race([server.stop(), sleep(5000)]), { code: 0, signal: null });
plan();
process.exit(0);
