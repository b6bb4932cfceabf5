// thinking.sh calls it with a model whose template gives 1 token, or 2 for little effort and 4 for much, and 10 more where thinking
// is on, 20 where it is off.
import { equal, plan, serve, verdict } from "./served.mjs";

const server = await serve();
const messages = [{ role: "user", content: "x" }];
async function ask(path, body) {
    const reply = await fetch(server.url + path, { method: "POST", body: JSON.stringify(body) });
    return { status: reply.status, json: await reply.json() };
}
const chat = (more) => ask("/v1/chat/completions", { messages, max_tokens: 1, ...more });
const ollama = (more) => ask("/api/chat", { messages, stream: false, options: { num_predict: 1 }, ...more });
const generate = (more) => ask("/api/generate", { prompt: "x", stream: false, options: { num_predict: 1 }, ...more });

for (const [name, more, want] of [["nothing said", {}, 1], ["low", { reasoning_effort: "low" }, 12], ["high", { reasoning_effort: "high" }, 14],
    ["none", { reasoning_effort: "none" }, 21], ["null", { reasoning_effort: null }, 1],
    ["a variable of the template", { chat_template_kwargs: { enable_thinking: false } }, 21],
    ["goes before the effort", { reasoning_effort: "high", chat_template_kwargs: { enable_thinking: false } }, 24]])
    equal(`OpenAI: ${name}`, (await chat(more)).json.usage?.prompt_tokens, want);
for (const [name, more, want] of [["nothing said", {}, 1], ["true", { think: true }, 11], ["false", { think: false }, 21],
    ["high", { think: "high" }, 14]]) {
    equal(`Ollama's chat: ${name}`, (await ollama(more)).json.prompt_eval_count, want);
    equal(`Ollama's generate: ${name}`, (await generate(more)).json.prompt_eval_count, want);
}
let r = await chat({ reasoning_effort: "some" });
verdict(r.status === 400 && /reasoning_effort/.test(r.json.error.message), "another effort is refused", r);
r = await ollama({ think: 5 });
verdict(r.status === 400 && /think/.test(r.json.error), "so is another kind of value", r);
await server.stop();
plan();
process.exit(0);
