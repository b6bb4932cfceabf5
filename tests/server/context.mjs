// See context.sh.
import { equal, plan, serve, verdict } from "./served.mjs";

const n_ctx = 384;
let server = await serve("-c", String(n_ctx));

async function post(path, body) {
    const response = await fetch(server.url + path, { method: "POST", body: JSON.stringify({ temperature: 0, ...body }) });
    return { status: response.status, body: await response.json() };
}
const chat = (body) => post("/v1/chat/completions", { max_tokens: 20, ...body });

const messages = [{ role: "system", content: "You answer in one short sentence." }];
for (let i = 0; i < 20; i++) {
    messages.push({ role: "user", content: `What is the capital of country number ${i}, please?` });
    messages.push({ role: "assistant", content: `I do not know the capital of country ${i}.` });
}
messages.push({ role: "user", content: "What is the capital of Japan?" });

// ---- without a choice ----

let r = await chat({ messages });
equal("a conversation that is too long is refused", r.status, 400);
verdict(/the prompt has \d+ tokens/.test(r.body.error.message) || /\d+ tokens of prompt/.test(r.body.error.message),
    "with the counts", r.body);
verdict(r.body.error.message.includes(String(n_ctx)), "and the context", r.body);
r = await chat({ messages: messages.slice(0, 2) });
equal("what fits says nothing of a policy", [r.status, r.body.context], [200, undefined]);

// ---- the oldest turns ----

r = await chat({ messages, context_policy: "drop-oldest-turn" });
const { context, usage, choices } = r.body;
verdict(r.status === 200 && context.dropped_messages > 0 && context.dropped_messages % 2 === 0, "whole turns go", r.body);
verdict(usage.prompt_tokens + 20 <= n_ctx, "the rest fits with its answer", usage);
const kept = [messages[0], ...messages.slice(1 + context.dropped_messages)];
r = await chat({ messages: kept });
equal("it is the conversation without them", [r.body.usage.prompt_tokens, r.body.choices[0].message.content],
    [usage.prompt_tokens, choices[0].message.content]);
const more = [messages[0], ...messages.slice(1 + context.dropped_messages - 2)];
equal("with one turn more it would not have", (await chat({ messages: more })).status, 400);
r = await chat({ messages: messages.slice(0, 2), context_policy: "drop-oldest-turn" });
equal("what fits stays whole", [r.body.context.dropped_messages, r.body.context.dropped_tokens], [0, 0]);
const long = { role: "user", content: "What is that? ".repeat(400) };
r = await chat({ messages: [...messages.slice(0, 3), long], context_policy: "drop-oldest-turn" });
equal("a last turn that is too long is refused", r.status, 400);
verdict(/last turn .* \d+ tokens/.test(r.body.error.message), "with the counts", r.body);
r = await post("/api/chat", { messages, truncate: true, stream: false, options: { num_predict: 20, temperature: 0 } });
equal("truncate of Ollama's clients", [r.status, r.body.dropped_messages, r.body.message.content],
    [200, context.dropped_messages, choices[0].message.content]);

// ---- a shift ----

const story = { messages: messages.slice(0, 2), max_tokens: 2 * n_ctx, ignore_eos: true };
equal("an answer that cannot fit is refused", (await chat(story)).status, 400);
r = await chat({ ...story, context_policy: "shift", n_keep: 40 });
equal("it goes on with a shift", [r.status, r.body.usage.completion_tokens], [200, 2 * n_ctx]);
verdict(r.body.context.dropped_tokens >= n_ctx, "and says what went", r.body.context);
r = await post("/completion", { prompt: "Once", n_predict: 500, ignore_eos: true, context_policy: "shift" });
equal("llama-server's clients see it, too", [r.body.tokens_predicted, r.body.truncated], [500, true]);

r = await chat({ messages, context_policy: "forget" });
equal("another policy is refused", r.status, 400);
await server.stop();

// ---- the server's choice ----

server = await serve("-c", String(n_ctx), "--context-policy", "drop-oldest-turn");
r = await chat({ messages });
equal("a policy for all", [r.status, r.body.context?.dropped_messages], [200, context.dropped_messages]);
r = await chat({ messages, context_policy: "error" });
equal("but for those that ask", r.status, 400);
await server.stop();
plan();
