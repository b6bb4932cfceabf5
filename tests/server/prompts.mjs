// See prompts.sh.
import { writeFileSync } from "node:fs";
import { equal, plan, serve, verdict } from "./served.mjs";

// A tokenizer as Llama 2 has it: a space stands in front of a text, and is not shown. 512 tokens: bytes, letters, and some words.
const vocab = {}, merges = [];
const add = (token) => (vocab[token] ??= Object.keys(vocab).length);
["<unk>", "<s>", "</s>"].forEach(add);
for (let i = 0; i < 256; i++) add(`<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
["\u2581", ..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"-:;()"].forEach(add);
for (const word of ["the", "once", "Once", "upon", "time", "mill", "a", "The"])
    for (let i = 0, token = "\u2581"; i < word.length; token += word[i++]) {
        if (token + word[i] in vocab) continue;
        merges.push([token, word[i]]);
        add(token + word[i]);
    }
while (Object.keys(vocab).length < 512) add(`<unused${Object.keys(vocab).length}>`);
const special = (content) => ({ id: vocab[content], content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true });
writeFileSync(`${process.env.SPACED}/tokenizer.json`, JSON.stringify({
    version: "1.0", truncation: null, padding: null, added_tokens: ["<unk>", "<s>", "</s>"].map(special),
    normalizer: { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "\u2581" }, { type: "Replace", pattern: { String: " " }, content: "\u2581" }] },
    pre_tokenizer: null, post_processor: null,
    decoder: { type: "Sequence", decoders: [{ type: "Replace", pattern: { String: "\u2581" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 }] },
    model: { type: "BPE", dropout: null, unk_token: "<unk>", continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true,
        byte_fallback: true, ignore_merges: false, vocab, merges },
}));

let server;
const demo = process.env.DEMO;
const send = (path, body) => fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
async function ask(body) {
    const response = await send("/v1/completions", { temperature: 0, max_tokens: 6, ...body });
    const json = await response.json();
    if (response.status !== 200) throw new Error(JSON.stringify(json));
    return json;
}
const choices = async (body) => (await ask(body)).choices;
const events = async (body) => (await (await send("/v1/completions", { temperature: 0, max_tokens: 6, ...body, stream: true })).text())
    .split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)));
const ids = async (content) => (await (await send("/tokenize", { content, add_special: true })).json()).tokens;
const common = { temperature: 1, seed: 5, logprobs: 1 };

for (const [name, model] of [["", demo], ["spaced: ", process.env.SPACED]]) {
    process.env.DEMO = model;
    server = await serve("-c", "256");
    const prompts = ["Once upon a time", "The mill", "naïve €"];

    // ---- several ----

    const singles = [];
    for (const prompt of prompts) singles.push(await ask({ ...common, prompt, n: 2 }));
    const together = await ask({ ...common, prompt: prompts, n: 2 });
    equal(`${name}answers to several prompts are those to each`, together.choices.map(({ index, ...rest }) => rest),
        singles.flatMap((one) => one.choices.map(({ index, ...rest }) => rest)));
    equal(`${name}in order`, together.choices.map((x) => x.index), [0, 1, 2, 3, 4, 5]);
    equal(`${name}usage has all`, [together.usage.prompt_tokens, together.usage.completion_tokens],
        [singles.reduce((n, x) => n + x.usage.prompt_tokens, 0), singles.reduce((n, x) => n + x.usage.completion_tokens, 0)]);
    const lists = await Promise.all(prompts.map(ids));
    equal(`${name}as tokens`, (await choices({ prompt: lists })).map((x) => x.text), (await choices({ prompt: prompts })).map((x) => x.text));
    equal(`${name}as both`, (await choices({ prompt: [prompts[0], lists[1]] })).map((x) => x.text),
        (await choices({ prompt: prompts.slice(0, 2) })).map((x) => x.text));
    const streamed = Array(6).fill("");
    for (const e of await events({ ...common, prompt: prompts, n: 2 })) if (e.choices[0]) streamed[e.choices[0].index] += e.choices[0].text;
    equal(`${name}as a stream`, streamed, together.choices.map((x) => x.text));

    // ---- repeated ----

    const answers = await choices({ prompt: prompts });
    const repeated = await choices({ prompt: prompts, echo: true });
    verdict(repeated.every((x, i) => x.text.startsWith(prompts[i]) && x.text.endsWith(answers[i].text)), `${name}prompts that are repeated`, repeated);
    equal(`${name}and nothing else`, (await choices({ prompt: prompts, echo: true, max_tokens: 0 })).map((x) => x.text), prompts);
    equal(`${name}in a stream`, (await events({ prompt: prompts[0], echo: true })).map((e) => e.choices[0]?.text ?? "").join(""), repeated[0].text);

    // ---- spaces ----

    const [spaced] = (await ids("x the")).slice(-1), known = await ids(prompts[0]);
    const forced = { prompt: prompts[0], logit_bias: { [spaced]: 100 }, max_tokens: 2 };
    const whole = (await (await send("/detokenize", { tokens: [...known, spaced, spaced] })).json()).content;
    equal(`${name}an answer goes on from its prompt`, prompts[0] + (await choices(forced))[0].text, whole);
    equal(`${name}in a stream`, prompts[0] + (await events(forced)).map((e) => e.choices[0]?.text ?? "").join(""), whole);
    equal(`${name}and repeated`, (await choices({ ...forced, echo: true }))[0].text, whole);
    equal(`${name}where its tokens are`, (await choices({ ...forced, logprobs: 0 }))[0].logprobs.text_offset, [0, 4]);
    equal(`${name}with llama-server's names`, prompts[0] + (await (await send("/completion", { ...forced, n_predict: 2, temperature: 0 })).json()).content, whole);
    equal(`${name}and Ollama's`, prompts[0] + (await (await send("/api/generate", { prompt: prompts[0], raw: true, stream: false,
        options: { num_predict: 2, temperature: 0, logit_bias: forced.logit_bias } })).json()).response, whole);

    // ---- what was thought of them ----

    const [{ text, logprobs: p }] = await choices({ prompt: prompts[2], echo: true, logprobs: 2, max_tokens: 0 });
    const n = p.tokens.length;
    equal(`${name}there is one of each token`, [p.token_logprobs, p.top_logprobs, p.text_offset].map((x) => x.length), [n, n, n]);
    equal(`${name}of the first nothing is known`, [p.token_logprobs[0], p.top_logprobs[0], p.text_offset[0]], [null, null, 0]);
    verdict(p.token_logprobs.slice(1).every((x, i) => x <= 0 && Object.keys(p.top_logprobs[i + 1]).length > 0), `${name}of the others something`, p);
    const chars = [...text];
    verdict(p.text_offset.every((at, i) => {
        const piece = chars.slice(at, p.text_offset[i + 1] ?? chars.length).join("");
        return p.tokens[i] === piece || p.tokens[i] === ` ${piece}` || piece === "" || p.tokens[i].includes("\ufffd");
    }), `${name}each is where it says`, p);
    // What an answer was drawn with is what is thought of it as a prompt.
    const prompt = await ids(prompts[0]);
    const [drawn] = await choices({ prompt, logprobs: 0, ignore_eos: true });
    const all = await choices({ prompt, echo: true, logprobs: 0, ignore_eos: true });
    equal(`${name}answers behind repeated prompts say the same`, all[0].logprobs.token_logprobs.slice(prompt.length), drawn.logprobs.token_logprobs);
    const { tokens } = await (await send("/completion", { prompt, temperature: 0, n_predict: 6, ignore_eos: true, return_tokens: true })).json();
    if (tokens) equal(`${name}and so does the answer as a prompt`, (await choices({ prompt: [...prompt, ...tokens], echo: true, logprobs: 0, max_tokens: 0 }))[0]
        .logprobs.token_logprobs.slice(prompt.length), drawn.logprobs.token_logprobs);
    await server.stop();
}

// ---- control tokens ----

process.env.DEMO = demo;
server = await serve("-c", "256");
const marked = "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>";
const [{ text, logprobs: { tokens, text_offset } }] = await choices({ prompt: marked, echo: true, logprobs: 0, max_tokens: 2, ignore_eos: true });
verdict(text.startsWith(marked), "control tokens that a prompt has are repeated", text);
equal("and counted", tokens.map((t, i) => text.slice(text_offset[i], text_offset[i] + t.length)).slice(1, 7), tokens.slice(1, 7));
equal("but for those that nobody wrote", [tokens[0], text_offset[1]], ["<|begin_of_text|>", 0]);
await server.stop();

// ---- a model that sees long sequences in another way from their start ----

process.env.DEMO = process.env.LONG;
server = await serve("-c", "256");
const reaching = async (max_tokens) => (await choices({ prompt: [5, 9, 12, 40, 7], echo: true, logprobs: 0, max_tokens, ignore_eos: true }))[0].logprobs.token_logprobs.slice(1, 105);
const far = await reaching(100);
equal("the prompt is told as the answer saw it, which ends", far, await reaching(200));
equal("or has no limit", far, await reaching(-1));
verdict(far[3] !== (await reaching(4))[3], "unlike a short one", far[3]);
await server.stop();

process.env.DEMO = demo;
server = await serve("-c", "256");
const long = await send("/v1/completions", { prompt: Array(300).fill(5), echo: true, logprobs: 1 });
verdict(long.status === 400 && /context/.test((await long.json()).error.message), "a prompt that is too long");
const many = await send("/v1/completions", { prompt: Array(2).fill(Array(250).fill(5)), n: 32, echo: true, logprobs: 20, max_tokens: 1 });
equal("many logprobs of prompts", many.status, 200);
await server.stop();
server = await serve("-c", "1024");
const more = await send("/v1/completions", { prompt: Array(1000).fill(5), n: 64, echo: true, logprobs: 20, max_tokens: 1 });
verdict(more.status === 400 && /"logprobs" .*fewer/.test((await more.json()).error.message), "more of them than can be told");
await server.stop();
plan();
