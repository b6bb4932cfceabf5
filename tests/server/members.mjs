// See members.sh.
import { createRequire } from "node:module";
import { equal, plan, raised, serve, verdict } from "./served.mjs";

const require = createRequire(`${process.env.CLIENTS}/`);
const OpenAI = require("openai");
const { Ollama } = require("ollama");

const server = await serve("--ctx", "1024");
const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
const ollama = new Ollama({ host: server.url });
const messages = [{ role: "user", content: "Tell me about a red boat." }];
const greedy = { model: "demo", messages, max_tokens: 24, temperature: 0 };
const chat = (more) => openai.chat.completions.create({ ...greedy, ...more });
const complete = (more) => openai.completions.create({ model: "demo", prompt: "Once upon a time", max_tokens: 8, temperature: 0, ...more });

async function refused(name, promise, message) {
    const e = await raised(promise);
    verdict((e?.status ?? e?.status_code) === 400 && message.test(e.message), `refused: ${name}`, e?.message);
}

// ---- OpenAI ----

const plain = (await chat({})).choices[0].message;
equal("what is kept about requests, and where they are computed, is ignored", (await chat({ metadata: { a: "b" }, store: true, user: "me", safety_identifier: "me",
    service_tier: "flex", prompt_cache_key: "k", prompt_cache_retention: "24h", modalities: ["text"], verbosity: "medium", audio: null, functions: [] })).choices[0].message, plain);
equal("max_completion_tokens", (await chat({ max_tokens: undefined, max_completion_tokens: 3 })).usage.completion_tokens, 3);
equal("parts of text", (await chat({ messages: [{ role: "user", content: [{ type: "text", text: "Tell me about " }, { type: "text", text: "a red boat." }] }] })).choices[0].message, plain);
const prompted = async (first) => (await chat({ messages: [...first, ...messages] })).usage.prompt_tokens;
equal("developer is system", await prompted([{ role: "developer", content: "Be kind." }]), await prompted([{ role: "system", content: "Be kind." }]));
const answered = (message) => [...messages, { role: "assistant", ...message }];
const said = await prompted(answered({ content: "I cannot." }));
equal("a refusal is what was said", await prompted(answered({ content: null, refusal: "I cannot." })), said);
equal("as a part, too", await prompted(answered({ content: [{ type: "refusal", refusal: "I cannot." }] })), said);
await refused("logprobs of the likeliest alone", chat({ top_logprobs: 2 }), /"top_logprobs" needs "logprobs"/);
for (const [name, more, message] of [["functions", { functions: [{ name: "f" }] }, /"functions" .*"tools"/], ["a call of one", { function_call: "auto" }, /"function_call"/],
    ["a voice", { audio: { voice: "ash", format: "wav" } }, /"audio"/], ["other modalities", { modalities: ["text", "audio"] }, /"modalities"/],
    ["one alone", { modalities: "audio" }, /"modalities"/], ["ignore_eos of another type", { ignore_eos: "yes" }, /"ignore_eos"/],
    ["a search", { web_search_options: {} }, /"web_search_options"/], ["moderation", { moderation: { model: "x" } }, /"moderation"/],
    ["verbosity", { verbosity: "low" }, /"verbosity"/], ["another prediction", { prediction: { type: "tokens", content: "x" } }, /"prediction"/],
    ["a prediction of nothing", { prediction: { type: "content" } }, /"prediction"/]])
    await refused(name, chat(more), message);

// A call or a form, as agents ask for them.
const parameters = { type: "object", properties: { city: { enum: ["Ulm", "Bonn"] } }, required: ["city"], additionalProperties: false };
const form = { type: "object", properties: { mill: { type: "boolean" } }, required: ["mill"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "weather", strict: true, parameters } }];
const isCall = (call) => call.function.name === "weather" && ["Ulm", "Bonn"].includes(JSON.parse(call.function.arguments).city);
for (let seed = 1; seed <= 6; seed++) {
    const { message } = (await chat({ tools, response_format: { type: "json_schema", json_schema: { name: "x", schema: form, strict: true } }, temperature: 2, seed, max_tokens: 100 })).choices[0];
    if (message.tool_calls ? message.tool_calls.every(isCall) : typeof JSON.parse(message.content).mill === "boolean") continue;
    verdict(false, "tools and a form", message);
}
const runner = openai.chat.completions.runTools({ ...greedy, max_tokens: 60, tool_choice: { type: "function", function: { name: "weather" } },
    tools: [{ type: "function", function: { name: "weather", parameters, strict: true, parse: JSON.parse, function: ({ city }) => `rain in ${city}` } }] });
verdict(/^rain in (Ulm|Bonn)$/.test(await runner.finalFunctionToolCallResult()), "the client's runner of tools gets its call");

// ---- predictions ----

const story = { ...greedy, max_tokens: 200, temperature: 1, seed: 3, ignore_eos: true };
const written = await openai.chat.completions.create(story);
const details = []; // beside other programs it may take a while until drafting pays
let same = true;
for (let i = 0; i < 40 && !details.some((d) => d.accepted_prediction_tokens > 5); i++) {
    const predicted = await openai.chat.completions.create({ ...story, prediction: { type: "content", content: [{ type: "text", text: written.choices[0].message.content }] } });
    same = same && predicted.choices[0].message.content === written.choices[0].message.content;
    details.push(predicted.usage.completion_tokens_details);
}
verdict(same, "a prediction changes nothing");
verdict(details.some((d) => d.accepted_prediction_tokens > 5), "but is made use of", details);
equal("without one nothing is told of it", written.usage.completion_tokens_details, { reasoning_tokens: 0, accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 });
const other = await openai.chat.completions.create({ ...story, prediction: { type: "content", content: "Another story, which is not the one that comes." } });
equal("a wrong one changes nothing either", other.choices[0].message.content, written.choices[0].message.content);

// ---- completions ----

const one = (await complete({})).choices[0];
const several = await complete({ prompt: ["Once upon a time", "The mill"], n: 2, echo: true, logprobs: 1 });
equal("several prompts that are repeated", several.choices.map((x) => [x.index, x.text.startsWith(["Once upon a time", "The mill"][x.index >> 1])]),
    [0, 1, 2, 3].map((i) => [i, true]));
equal("with the answers that they get alone", several.choices[0].text, `Once upon a time${one.text}`);
verdict(several.choices[0].logprobs.token_logprobs[0] === null && several.choices[0].logprobs.token_logprobs.slice(1).every((p) => p <= 0), "and the logprobs of all", several.choices[0].logprobs);

// ---- Ollama ----

const asked = { model: "demo", messages, options: { num_predict: 24, temperature: 0 } };
const options = { ...asked.options, num_ctx: 4096, num_gpu: 1, num_thread: 2, mirostat: 0, tfs_z: 1, typical_p: 1, use_mmap: true, num_batch: 8 };
equal("what is about the machine is ignored", (await ollama.chat({ ...asked, options, keep_alive: "5m" })).message.content, plain.content);
const { logprobs } = await ollama.chat({ ...asked, logprobs: true, top_logprobs: 2 });
verdict(logprobs.length > 0 && logprobs.every((p) => p.logprob <= 0 && p.top_logprobs.length === 2), "logprobs", logprobs);
await refused("Ollama: logprobs of the likeliest alone", ollama.chat({ ...asked, top_logprobs: 2 }), /"top_logprobs"/);
await refused("Ollama: mirostat", ollama.chat({ ...asked, options: { mirostat: 1 } }), /"mirostat"/);
const generate = { model: "demo", prompt: messages[0].content, options: asked.options };
equal("an empty template is none", (await ollama.generate({ ...generate, template: "", context: [] })).response, plain.content);
await refused("Ollama: a template", ollama.generate({ ...generate, template: "{{ .Prompt }}" }), /"template"/);
await refused("Ollama: a suffix", ollama.generate({ ...generate, suffix: "}" }), /"suffix"/);
await refused("Ollama: a context", ollama.generate({ ...generate, context: [1, 2] }), /"context"/);
const { message } = await ollama.chat({ ...asked, tools, format: form, options: { ...asked.options, num_predict: 100 } });
verdict(message.tool_calls ? message.tool_calls.every((call) => ["Ulm", "Bonn"].includes(call.function.arguments.city)) : typeof JSON.parse(message.content).mill === "boolean",
    "Ollama: tools and a form", message);
const must = await ollama.chat({ ...asked, tools, tool_choice: "required", options: { ...asked.options, num_predict: 100 } });
verdict(must.message.tool_calls?.length > 0, "Ollama: a call that must come", must.message);
await server.stop();
plan();
process.exit(0);
