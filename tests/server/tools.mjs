// See tools.sh.
import { equal, plan, serve, verdict } from "./served.mjs";

const CHAT = "/v1/chat/completions";
const messages = [{ role: "user", content: "Who are you?" }];
const object = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
const form = object({ name: { enum: ["mill", "stone"] }, age: { type: "integer", minimum: 0, maximum: 9 } });
const city = { $ref: "#/$defs/city", $defs: { city: object({ city: { enum: ["Ulm", "Bonn"] } }) } };
const tool = (name, parameters, strict) => ({ type: "function", function: { name, parameters, strict } });
const weather = tool("weather", city, true), clock = tool("clock", object({ zone: { type: "integer", minimum: 1, maximum: 3 } }));
const tools = [weather, clock];
const response_format = { type: "json_schema", json_schema: { name: "x", schema: form } };

let server;
const send = (path, body) => fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
async function post(path, body) {
    const response = await send(path, body);
    return { status: response.status, body: await response.json() };
}
const chat = (body) => post(CHAT, { messages, max_tokens: 200, ...body });
const stream = async (body) => (await (await send(CHAT, { messages, max_tokens: 200, ...body, stream: true })).text()).split("\n")
    .filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)).choices[0]).filter(Boolean);

function value(text) {
    try {
        return JSON.parse(text);
    } catch {
        return undefined;
    }
}
const isForm = (text) => {
    const v = value(text);
    return v && Object.keys(v).join() === "name,age" && ["mill", "stone"].includes(v.name) && v.age >= 0 && v.age <= 9;
};
const isCall = ({ name, arguments: text }) => {
    const v = typeof text === "string" ? value(text) : text;
    return name === "weather" ? ["Ulm", "Bonn"].includes(v?.city) && Object.keys(v).length === 1
        : name === "clock" && [1, 2, 3].includes(v?.zone) && Object.keys(v).length === 1;
};
// What an answer is: "form", the number of its calls, "cut" by its limit, or "wrong".
function kind({ message: { content, tool_calls: calls }, finish_reason: why }) {
    if (why === "length") return "cut";
    if (calls) return content === null && why === "tool_calls" && calls.every((call) => isCall(call.function)) ? calls.length : "wrong";
    return why === "stop" && isForm(content) ? "form" : "wrong";
}
const kinds = async (body, seeds) => {
    const all = [];
    for (let seed = 1; seed <= seeds; seed++) all.push(kind((await chat({ temperature: 2, seed, ...body })).body.choices[0]));
    return all.filter((k) => k !== "cut");
};

const demo = process.env.DEMO;
for (const [style, model] of [["plain", demo], ["tagged", process.env.TAGGED]]) {
    process.env.DEMO = model;
    server = await serve("-c", "1024");

    // ---- beside a form ----

    let all = await kinds({ tools, response_format }, 30);
    verdict(!all.includes("wrong"), `${style}: an answer is calls or has the form`, all);
    verdict(all.includes("form"), `${style}: some have the form`, all);
    verdict(all.some(Number), `${style}: some call`, all);
    all = await kinds({ tools, response_format, parallel_tool_calls: false }, 30);
    verdict(!all.includes("wrong") && all.every((k) => k === "form" || k === 1), `${style}: one call at most where that is asked for`, all);
    all = await kinds({ tools, tool_choice: "required", response_format }, 8);
    verdict(all.every(Number), `${style}: a call that must come`, all);
    all = await kinds({ tools, tool_choice: { type: "function", function: { name: "clock" } } }, 4);
    verdict(all.every((k) => k === 1), `${style}: a call of one function`, all);
    const allowed = { type: "allowed_tools", allowed_tools: { mode: "required", tools: [{ type: "function", function: { name: "clock" } }] } };
    all = (await chat({ tools, tool_choice: allowed, temperature: 2, seed: 1, max_tokens: 400 })).body.choices[0];
    verdict(kind(all) === "cut" || (kind(all) > 0 && all.message.tool_calls.every((call) => call.function.name === "clock")), `${style}: calls of those that are allowed`, all);
    all = await kinds({ tools, tool_choice: "none", response_format }, 4);
    verdict(all.every((k) => k === "form"), `${style}: no call where none may come`, all);

    const seeds = [1, 2, 3, 4, 5, 6, 7, 8];
    const drawn = (seed) => ({ tools, response_format, temperature: 2, seed });
    const alone = [];
    for (const seed of seeds) alone.push((await chat(drawn(seed))).body.choices[0].message);
    const together = await Promise.all(seeds.map((seed) => stream(drawn(seed))));
    equal(`${style}: streams beside each other tell the same`, together.map((events) => ({
        content: events.map((e) => e.delta.content ?? "").join("") || null,
        calls: events.flatMap((e) => e.delta.tool_calls ?? []).map((call) => call.function),
    })), alone.map((m) => ({ content: m.content || null, calls: (m.tool_calls ?? []).map((call) => call.function) })));

    const told = [];
    for (const seed of seeds) {
        const { body: { message: m, done_reason: why } } = await post("/api/chat",
            { messages, tools, format: form, stream: false, options: { temperature: 2, seed, num_predict: 200 } });
        told.push(why === "length" || (m.tool_calls ? m.tool_calls.every((call) => isCall(call.function)) : isForm(m.content)));
    }
    verdict(!told.includes(false), `${style}: Ollama: format and tools`, told);

    // ---- strict calls beside free text ----

    // Tokens that are likely one after the other, once each: they begin a call.
    const { body: { tokens } } = await post("/tokenize", { content: '{"name": "weather' });
    const begun = { temperature: 0, repeat_last_n: 9, presence_penalty: 100, max_tokens: 60,
        logit_bias: Object.fromEntries(tokens.map((id, i) => [id, 100 - 5 * i])) };
    let r = await chat({ tools, ...begun });
    if (style === "plain") verdict(kind(r.body.choices[0]) === 1, `${style}: strict calls`, r.body);
    r = await chat({ tools: [{ ...weather, function: { ...weather.function, strict: false } }, clock], temperature: 0 });
    const text = r.body.choices[0].message.content;
    r = await chat({ tools, temperature: 0 });
    equal(`${style}: text is the same beside them`, r.body.choices[0].message.content, text);
    await server.stop();
}

// ---- behind thinking that the template opens ----

process.env.DEMO = process.env.OPENED;
server = await serve("-c", "512");
const { body: { tokens: close } } = await post("/tokenize", { content: "</think>" });
const letters = close.filter((id, i) => close.indexOf(id) === i); /* likely one after the other, once each */
const thought = { temperature: 0.5, repeat_last_n: 9, presence_penalty: 100, logit_bias: Object.fromEntries(letters.map((id, i) => [id, 100 - 5 * i])) };
const behind = [], thinking = [];
for (let seed = 1; seed <= 12; seed++) {
    const { choices: [x], usage } = (await chat({ tools, response_format, seed, ...thought })).body;
    behind.push(kind(x));
    thinking.push(usage.completion_tokens_details.reasoning_tokens);
}
verdict(!behind.includes("wrong") && behind.some((k) => k !== "cut"), "behind thinking an answer is calls or has the form", behind);
verdict(thinking.every((n) => n >= letters.length), "the tokens of thinking are counted", thinking);
await server.stop();

// ---- what cannot be honoured ----

process.env.DEMO = demo;
server = await serve("-c", "1024");
const odd = { ...object({ a: { type: "string" } }), unevaluatedItems: {} };
for (const [name, body, message] of [
    ["a strict function", { tools: [tool("f", odd, true)] }, /"tools": the parameters of "f": schema, #\/unevaluatedItems/],
    ["a function that must be called", { tools: [tool("f", odd)], tool_choice: "required" }, /parameters of "f"/],
    ["no schema", { tools: [tool("f", { type: "strin" })], response_format }, /parameters of "f": schema, #\/type/],
    ["another kind of tool", { tools: [{ type: "custom", custom: { name: "f" } }] }, /"tools" must be/],
    ["tools that are none", { tools: {} }, /"tools" must be/],
    ["a choice of none that are there", { tools, tool_choice: { type: "allowed_tools", allowed_tools: { mode: "auto", tools: [] } } }, /no such function/],
    ["another mode", { tools, tool_choice: { type: "allowed_tools", allowed_tools: { mode: "some", tools } } }, /"tool_choice" must be/],
    ["a choice of no list", { tools, tool_choice: { type: "allowed_tools", allowed_tools: { mode: "auto" } } }, /"tool_choice" must be/],
    ["a choice of very many", { tools, tool_choice: { type: "allowed_tools", allowed_tools: { mode: "auto", tools: Array(1025).fill(tools[0]) } } }, /"tool_choice" must be/],
    ["very many", { tools: Array(1025).fill(tools[0]) }, /"tools" must be .*at most 1024/],
    ["a tool that is none", { tools: [5] }, /"tools" must be/],
    ["arguments that are no object", { tools: [tool("f", { type: "string" })], tool_choice: "required" }, /parameters of "f": their type must be/],
    ["a value of another type", { tools, parallel_tool_calls: 1 }, /"parallel_tool_calls"/],
]) {
    const { status, body: b } = await chat(body);
    verdict(status === 400 && message.test(b.error.message), `refused: ${name}`, status, b);
}
const complex = object({ a: { type: "string", pattern: "a.{20}$", maxLength: 99 } });
for (const [name, parameters] of [["a function that need not be held", odd], ["or would take too much", complex]]) {
    const { body: b } = await chat({ tools: [tool("f", parameters)], response_format, temperature: 0 });
    verdict(b.choices?.[0].message.content.startsWith('{"name": '), name, b);
}
await server.stop();
plan();
