// See completion.sh.
import { equal, plan, serve, verdict } from "./served.mjs";

const server = await serve("-c", "512");
const send = (path, body) => fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
async function post(path, body) {
    const response = await send(path, body);
    return { status: response.status, body: await response.json() };
}
const PROMPT = "Once upon a time";
const ask = async (body) => (await post("/completion", { prompt: PROMPT, temperature: 0, n_predict: 12, ...body })).body;
async function events(body) {
    const text = await (await send("/completion", { prompt: PROMPT, temperature: 0, n_predict: 12, stream: true, ...body })).text();
    return text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice(6)));
}
const tokenize = async (content, more) => (await post("/tokenize", { content, ...more })).body.tokens;

// ---- what an answer says ----

const one = await ask({ seed: 4, stop: ["zzz", "yyy"], return_tokens: true });
const fields = ["index", "content", "tokens", "id_slot", "stop", "model", "tokens_predicted", "tokens_evaluated", "tokens_cached",
    "generation_settings", "prompt", "has_new_line", "truncated", "stop_type", "stopping_word", "timings"];
equal("an answer has the members that clients read", fields.filter((f) => !(f in one)), []);
equal("its end", [one.stop, one.stop_type, one.stopping_word, one.truncated, one.has_new_line], [true, "limit", "", false, false]);
equal("its counts", [one.tokens_predicted, one.tokens_evaluated, one.tokens.length], [12, 5, 12]);
equal("its tokens are its text", (await post("/detokenize", { tokens: one.tokens })).body.content, one.content);
equal("the prompt with what was put in front", one.prompt, `<|begin_of_text|>${PROMPT}`);
const { generation_settings: g, timings: t } = one;
equal("what it was drawn with", [g.seed, g.n_predict, g.temperature, g.stop, g.n_probs, g.stream], [4, 12, 0, ["zzz", "yyy"], 0, false]);
equal("times", ["prompt", "predicted"].map((w) => t[`${w}_n`] > 0 && Math.abs(t[`${w}_per_token_ms`] * t[`${w}_n`] - t[`${w}_ms`]) < 0.1 &&
    Math.abs(t[`${w}_per_second`] * t[`${w}_per_token_ms`] / 1000 - 1) < 0.01), [true, true]);
equal("tokens are told where they are asked for", (await ask({})).tokens, []);
const word = one.content.trim().split(" ")[1];
let r = await ask({ stop: ["zzz", word, "yyy"] });
equal("the word that stopped it", [r.stop_type, r.stopping_word, one.content.startsWith(r.content)], ["word", word, true]);
r = await post("/completion", { prompt: "<|start_header_id|>user<|end_header_id|>\n\nWhat is the capital of Japan?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", temperature: 0 });
equal("an answer that ended by itself", [r.body.stop_type, r.body.stopping_word], ["eos", ""]);
const again = await ask({ prompt: `${PROMPT} `.repeat(40) });
equal("again, most of the prompt is known", (await ask({ prompt: `${PROMPT} `.repeat(40) })).tokens_cached > again.tokens_cached, true);

// ---- streams ----

const all = await events({ return_tokens: false, timings_per_token: true, n_probs: 1 });
const parts = all.slice(0, -1), last = all.at(-1);
equal("a stream has the same text", parts.map((e) => e.content).join(""), one.content);
equal("and tokens in any case", all.flatMap((e) => e.tokens), one.tokens);
equal("counts on the way", parts.map((e) => e.tokens_predicted), parts.map((_, i) => i + 1));
verdict(parts.every((e) => e.tokens_evaluated === 5 && e.stop === false && e.timings.predicted_n === e.tokens_predicted && e.timings.prompt_n + e.timings.cache_n === 5),
    "and times, where they are asked for", parts[1]);
equal("but else not", (await events({})).slice(0, -1).filter((e) => "timings" in e), []);
equal("all else at the end", fields.filter((f) => !(f in last)), []);

// ---- several, and other kinds of prompts ----

const two = await ask({ prompt: [PROMPT, "The mill"] });
equal("two prompts give an array", [two.length, two[0].content, two.map((x) => x.index)], [2, one.content, [0, 1]]);
const three = await ask({ n_cmpl: 3, temperature: 1, seed: 8 });
const singles = [];
for (const seed of [8, 9, 10]) singles.push(await ask({ temperature: 1, seed }));
equal("several answers to one", three.map((x) => [x.index, x.content, x.generation_settings.seed]),
    singles.map((x, i) => [i, x.content, 8 + i]));
const mixed = [...(await tokenize("Once upon", { add_special: true })), " a time"];
equal("tokens and texts in turn", (await ask({ prompt: mixed })).content, one.content);
equal("a text in front", (await ask({ prompt: ["Once upon", ...(await tokenize(" a time"))] })).content, one.content);

// ---- fields ----

equal("only some fields", await ask({ response_fields: ["content", "generation_settings/seed", "nothing", "timings/none"], seed: 6 }),
    { content: one.content, seed: 6 });
equal("each name once, for the last of them", await (await send("/completion", { prompt: PROMPT, n_predict: 1, stop: ["zzz"],
    response_fields: ["stop", "index", "index", "generation_settings/stop", "stop/none"] })).text(), '{"index":0,"stop":["zzz"]}');
equal("of each answer", (await ask({ prompt: [PROMPT, PROMPT], response_fields: ["index"] })), [{ index: 0 }, { index: 1 }]);

// ---- how tokens are drawn ----

const drawn = (more) => ask({ temperature: 1, seed: 3, top_k: 5, top_p: 0.5, min_p: 0.2, repeat_penalty: 1.5, ...more });
equal("samplers that are left out are off", (await drawn({ samplers: ["top_k", "temperature"] })).content,
    (await drawn({ top_p: 1, min_p: 0, repeat_penalty: 1 })).content);
equal("all of them are the same as none said", (await drawn({ samplers: ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"] })).content,
    (await drawn({})).content);
equal("by letters", (await drawn({ samplers: "kt" })).content, (await drawn({ samplers: ["top_k", "temperature"] })).content);
equal("-1 turns top_k off", (await drawn({ top_k: -1 })).content, (await drawn({ top_k: 0 })).content);
equal("one candidate leaves no choice", (await drawn({ top_p: 0, min_p: 1, repeat_penalty: 1, seed: 1 })).content, one.content);
equal("min_keep leaves more", (await drawn({ top_k: 0, top_p: 0, min_p: 1, min_keep: 5 })).content, (await drawn({ top_k: 5, top_p: 1, min_p: 0 })).content);

const [first] = one.tokens, text = (await post("/detokenize", { tokens: [first] })).body.content;
const banned = await ask({ logit_bias: [[first, false]], return_tokens: true });
verdict(!banned.tokens.includes(first), "a token that is banned", banned.content);
for (const [name, logit_bias] of [["by a number", [[first, -100]]], ["by its text", [[text, false]]], ["in an object", { [first]: -100 }], ["by its text in one", { [text]: -100 }]])
    equal(`${name}`, (await ask({ logit_bias })).content, banned.content);
equal("settings tell it", (await ask({ logit_bias: [[first, 2.5], [5, false]] })).generation_settings.logit_bias,
    [{ token: first, bias: 2.5 }, { token: 5, bias: false }]);

// ---- time ----

const story = { n_predict: 400, ignore_eos: true, logit_bias: [["\n", 8]] };
r = await ask({ ...story, t_max_predict_ms: 1 });
verdict(r.stop_type === "limit" && r.has_new_line && r.tokens_predicted < 400, "an answer that takes too long ends behind a line", r.tokens_predicted);
r = await ask({ n_predict: 60, t_max_predict_ms: 1, logit_bias: [["\n", false], ["\n\n", false]], ignore_eos: true, grammar: "root ::= [a-z ]{300,}" });
equal("but not without one", r.tokens_predicted, 60);

r = await ask({ n_predict: 60, t_max_predict_ms: 1, ignore_eos: true, grammar: 'root ::= "\\n" "c"{100,}', stop: ["cz"], return_tokens: true });
verdict(r.stop_type === "limit" && r.tokens_predicted < 60, "nor is what may become a stop string waited for", r);
equal("which is told", r.content, (await post("/detokenize", { tokens: r.tokens })).body.content);

// ---- what is refused ----

for (const [name, body, message] of [
    ["mirostat", { mirostat: 2 }, /"mirostat" is not supported/], ["dry", { dry_multiplier: 0.8 }, /"dry_multiplier"/],
    ["xtc", { xtc_probability: 0.5 }, /"xtc_probability"/], ["typical", { typical_p: 0.9 }, /"typical_p" .*off \(1\)/],
    ["temperature that changes", { dynatemp_range: 0.5 }, /"dynatemp_range"/],
    ["another order", { samplers: ["temperature", "top_k"] }, /"samplers" .*in this order/], ["another sampler", { samplers: ["infill"] }, /"samplers"/],
    ["another letter", { samplers: "kz" }, /"samplers"/], ["a bias of a token that is not there", { logit_bias: [[99999, 1]] }, /"logit_bias"/],
    ["a bias without a token", { logit_bias: [[1]] }, /"logit_bias"/], ["too much bias", { logit_bias: { 1: 101 } }, /"logit_bias"/],
    ["fields that are no names", { response_fields: [1] }, /"response_fields"/], ["a negative min_keep", { min_keep: -1 }, /"min_keep"/],
    ["a hundred fields", { response_fields: Array(100).fill("prompt") }, /"response_fields" .*at most 64/],
    ["more biases than tokens", { logit_bias: Array(16385).fill([5, 1]) }, /"logit_bias" .*at most 16384/],
    ["a stop string with NUL", { stop: "a\0b" }, /"stop" .*NUL/], ["a grammar with NUL", { grammar: 'root ::= "a"\0 "b"' }, /"grammar" .*NUL/],
    ["an object as prompt", { prompt: { prompt_string: "x" } }, /"prompt" must be/], ["too many answers", { n_cmpl: 65 }, /"n_cmpl"/],
]) {
    const { status, body: b } = await post("/completion", { prompt: PROMPT, n_predict: 1, ...body });
    verdict(status === 400 && message.test(b.error.message), `refused: ${name}`, status, b);
}
const off = { mirostat: 0, mirostat_tau: 5, dry_multiplier: 0, dry_base: 1.75, xtc_probability: 0, xtc_threshold: 0.1, typical_p: 1, dynatemp_range: 0, top_n_sigma: -1,
    n_indent: 0, id_slot: -1, cache_prompt: true, n_cache_reuse: 0, return_progress: false };
equal("what is off is not", (await ask(off)).content, one.content);
r = await post("/v1/chat/completions", { messages: [{ role: "user", content: "x" }], mirostat: 1 });
verdict(r.status === 400 && /"mirostat"/.test(r.body.error.message), "chats refuse the same", r.body);
r = await post("/api/generate", { prompt: "x", options: { mirostat: 1 } });
verdict(r.status === 400 && /"mirostat"/.test(r.body.error), "and Ollama's", r.body);
await server.stop();
plan();
