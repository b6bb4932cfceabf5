// See forms.sh.
import { equal, metric, plan, serve, verdict } from "./served.mjs";

let server = await serve("-c", "512");
const CHAT = "/v1/chat/completions";
const messages = [{ role: "user", content: "Who are you?" }];
const person = {
    type: "object",
    properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer", minimum: 0, maximum: 120 } },
    required: ["name", "age"],
    additionalProperties: false,
};
const isPerson = (v) => Object.keys(v).join() === "name,age" && [...v.name].length <= 20 && Number.isInteger(v.age) && v.age >= 0 && v.age <= 120;

const send = (path, body) => fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
async function post(path, body) {
    const response = await send(path, body);
    return { status: response.status, body: await response.json() };
}
const chat = (body) => post(CHAT, { messages, temperature: 0, max_tokens: 100, ...body });
const ollama = (path, body) => post(path, { stream: false, options: { temperature: 0, num_predict: 100 }, ...body });
const completion = (body) => post("/completion", { prompt: "Here is it:", temperature: 0, n_predict: 100, ...body });

function parsed(name, text, good) {
    let value;
    try {
        value = JSON.parse(text);
    } catch {
        // told below
    }
    verdict(value !== undefined && good(value), name, text);
}

// The pieces of a stream of events, put together by get.
async function stream(path, body, get) {
    const text = await (await send(path, { ...body, stream: true })).text();
    const events = text.split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)));
    return { n: events.length, text: events.map((event) => get(event) ?? "").join("") };
}

// ---- the ways to ask for a form ----

const strict = { type: "json_schema", json_schema: { name: "person", strict: true, schema: person } };
let r = await chat({ response_format: strict });
const first = r.body.choices[0];
parsed("response_format json_schema", first.message.content, isPerson);
equal("the answer ends by itself", first.finish_reason, "stop");
r = await chat({ response_format: { type: "json_object" } });
parsed("response_format json_object", r.body.choices[0].message.content, (v) => v.constructor === Object);
r = await chat({ response_format: { type: "json_object", schema: person } });
equal("with a schema", r.body.choices[0].message.content, first.message.content);
r = await chat({ response_format: { type: "text" } });
verdict(r.status === 200 && !r.body.choices[0].message.content.startsWith("{"), "response_format text", r.body);
r = await chat({ json_schema: person });
equal("json_schema", r.body.choices[0].message.content, first.message.content);
r = await ollama("/api/chat", { messages, format: person });
equal("Ollama: format with a schema", r.body.message.content, first.message.content);
r = await ollama("/api/chat", { messages, format: "json" });
parsed("Ollama: format json", r.body.message.content, (v) => v.constructor === Object);
r = await ollama("/api/generate", { prompt: "Who are you?", format: person });
parsed("Ollama: format of /api/generate", r.body.response, isPerson);
r = await completion({ json_schema: person });
parsed("llama-server: json_schema", r.body.content, isPerson);
r = await completion({ grammar: 'root ::= "yes" | "no"' });
verdict(["yes", "no"].includes(r.body.content), "llama-server: grammar", r.body.content);
r = await post("/v1/completions", { prompt: "When?", temperature: 0, max_tokens: 50, json_schema: { type: "string", pattern: "^\\d{4}-\\d{2}$" } });
verdict(/^"\d{4}-\d{2}"$/.test(r.body.choices[0].text), "a completion", r.body);

// ---- with streams, limits, stop strings ----

let s = await stream(CHAT, { messages, temperature: 0, max_tokens: 100, response_format: strict }, (e) => e.choices[0]?.delta?.content);
equal("a stream has the same text", s.text, first.message.content);
verdict(s.n > 5, "in pieces", s.n);
s = await stream("/completion", { prompt: "Here is it:", n_predict: 100, temperature: 2, seed: 3, json_schema: person }, (e) => e.content);
parsed("a drawn answer", s.text, isPerson);
r = await chat({ response_format: strict, max_tokens: 4 });
equal("a limit cuts it off", r.body.choices[0].finish_reason, "length");
verdict(first.message.content.startsWith(r.body.choices[0].message.content), "and changes nothing before", r.body);
r = await chat({ response_format: strict, stop: ["age"] });
equal("so does a stop string", r.body.choices[0].message.content, first.message.content.split("age")[0]);

// ---- with tools ----

const parameters = { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "weather", parameters } }, { type: "function", function: { name: "time" } }];
const isCall = (names) => (call) => names.includes(call.function.name) && JSON.parse(call.function.arguments).constructor === Object;
r = await chat({ tools, tool_choice: "required" });
verdict(r.body.choices[0].finish_reason === "tool_calls" && r.body.choices[0].message.tool_calls.every(isCall(["weather", "time"])),
    "tool_choice required", r.body);
const one = { type: "function", function: { name: "weather" } };
r = await chat({ tools, tool_choice: one });
const calls = r.body.choices[0].message.tool_calls;
verdict(calls.length === 1 && isCall(["weather"])(calls[0]), "tool_choice of a function", r.body);
equal("its arguments satisfy the schema", Object.keys(JSON.parse(calls[0].function.arguments)), ["city"]);
s = await stream(CHAT, { messages, tools, tool_choice: one, temperature: 0, max_tokens: 100 },
    (e) => e.choices[0]?.delta?.tool_calls?.[0]?.function.arguments);
equal("in a stream", s.text, calls[0].function.arguments);
r = await chat({ tools, tool_choice: one, n: 3, temperature: 1 });
const ids = r.body.choices.flatMap((x) => x.message.tool_calls.map((call) => call.id));
verdict(ids.length === 3 && new Set(ids).size === 3, "calls of several answers have ids of their own", ids);
r = await chat({ tools, tool_choice: "none", response_format: strict });
parsed("tool_choice none, and a form", r.body.choices[0].message.content, isPerson);

// The template of the demo model has no place for tools: what is said of them is told in words.
const length = async (more) => (await chat({ max_tokens: 1, ...more })).body.usage.prompt_tokens;
const plain = await length({});
verdict(await length({ tools }) > plain + 50, "tools reach a model whose template has none");
equal("but for those that may not be called", await length({ tools, tool_choice: "none" }), plain);
const call = { id: "1", type: "function", function: { name: "time", arguments: "{}" } };
const turns = [...messages, { role: "assistant", content: null, tool_calls: [call, { ...call, id: "2" }] },
    { role: "tool", tool_call_id: "1", content: "noon" }, { role: "tool", tool_call_id: "2", content: [{ type: "text", text: "one" }] }];
const returned = await length({ messages: turns });
verdict(returned > plain + 20, "calls and what they returned do, too", returned);
verdict(await length({ messages: turns.with(3, { ...turns[3], content: "a quarter to four" }) }) > returned, "each result", returned);

// ---- what cannot be honoured ----

const refused = [
    ["a keyword", CHAT, { messages, response_format: { type: "json_object", schema: { unevaluatedItems: {} } } }, /"response_format": schema, #\/unevaluatedItems/],
    ["a schema of another type", CHAT, { messages, json_schema: 1 }, /"json_schema": schema, #/],
    ["a format without a schema", CHAT, { messages, response_format: { type: "json_schema" } }, /"response_format" must be/],
    ["an unknown format", CHAT, { messages, response_format: { type: "xml" } }, /text, json_object or json_schema/],
    ["two forms", CHAT, { messages, json_schema: {}, grammar: 'root ::= "a"' }, /one form/],
    ["a function that is not there", CHAT, { messages, tools, tool_choice: { type: "function", function: { name: "x" } } }, /no such function/],
    ["a call without tools", CHAT, { messages, tool_choice: "required" }, /no such function/],
    ["another choice", CHAT, { messages, tools, tool_choice: "sometimes" }, /"tool_choice" must be/],
    ["a grammar", "/completion", { prompt: "x", grammar: "root ::= x" }, /"grammar": .*"x"/],
    ["a grammar of another type", "/completion", { prompt: "x", grammar: 1 }, /"grammar" must be a string/],
    ["Ollama: a format", "/api/chat", { messages, format: "yaml" }, /"format" must be/],
    ["Ollama: a schema", "/api/chat", { messages, format: { type: "strin" } }, /"format": schema, #\/type/],
];
for (const [name, path, body, message] of refused) {
    const { status, body: b } = await post(path, body);
    verdict(status === 400 && message.test(b.error?.message ?? b.error), `refused: ${name}`, status, b);
}

// ---- beside others, and with guesses ----

const seeds = [1, 2, 3, 4];
const drawn = (seed) => completion({ json_schema: { type: "array", items: person, minItems: 2, maxItems: 3 }, temperature: 0.8, seed, n_predict: 200 });
const free = () => completion({ prompt: "The mill", n_predict: 40 });
const alone = [];
for (const seed of seeds) alone.push((await drawn(seed)).body.content);
const freeAlone = (await free()).body.content;
const [freeTogether, ...together] = await Promise.all([free(), ...seeds.map(drawn)]);
equal("requests beside each other get what they get alone", together.map((t) => t.body.content), alone);
equal("and one that is free does", freeTogether.body.content, freeAlone);
verdict((await metric(server, "quern:drafted_tokens_total")) > 0, "guesses were made");
await server.stop();

server = await serve("-c", "512", "--speculate", "off");
const without = [];
for (const seed of seeds) without.push((await drawn(seed)).body.content);
equal("without guesses the answers are the same", without, alone);
await server.stop();
plan();
