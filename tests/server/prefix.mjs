// See prefix.sh.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { equal, metric, plan, serve, sleep, verdict } from "./served.mjs";

const folder = join(process.env.FOLDER, "deep", "prefix");
const page = 64;
const options = ["--prefix-cache", folder, "-c", "4096", "--parallel", "2"];

async function ask(server, messages, more = {}) {
    const response = await fetch(`${server.url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify({ messages, max_tokens: 12, temperature: 0, ...more }),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(JSON.stringify(answer));
    return answer;
}

// Waits until the server has written what it has to write.
async function settled() {
    for (let before = -1; ; await sleep(300)) {
        const files = readdirSync(folder).filter((name) => !name.startsWith("."));
        if (files.length === before) return files.sort();
        before = files.length;
    }
}

const topics = ["rivers", "bread", "clocks", "the moon", "salt", "bridges", "wool", "maps", "bees", "glass"];
const messages = [{ role: "system", content: "You are a helpful assistant who answers in one short sentence." }];

// ---- a conversation of 40 turns, and a server that is killed in its middle ----

let server = await serve(...options);
let known = 0, worst = 0, restored = 0;
for (let turn = 0; turn < 40; turn++) {
    if (turn === 20) {
        await settled();
        equal("the server is killed", (await server.kill()).signal, "SIGKILL");
        server = await serve(...options);
    }
    messages.push({ role: "user", content: `Tell me something about ${topics[turn % 10]}, number ${turn}.` });
    const { choices, usage, prefix } = await ask(server, messages);
    messages.push({ role: "assistant", content: choices[0].message.content });
    const cached = usage.prompt_tokens_details.cached_tokens;
    worst = Math.max(worst, known - cached);
    if (turn === 20) restored = prefix.restored_tokens;
    else if (prefix.restored_tokens) verdict(false, `turn ${turn} read from disk`, prefix);
    known = usage.prompt_tokens;
}
verdict(worst < page, "each turn computes the new tokens only, and what is left of a page", worst);
verdict(restored >= page, "the prefix is found again after the kill", restored);
equal("the metrics count it", await metric(server, "quern:prompt_tokens_restored_total"), restored);

// ---- the same answers ----

const plain = await serve("--no-prefix", "-c", "4096");
const texts = async (s) => (await ask(s, messages.slice(0, 40), { max_tokens: 40 })).choices[0].message.content;
equal("the answer is that of a server which keeps nothing", await texts(server), await texts(plain));
await plain.stop();

// ---- why a prompt was not known ----

const changed = messages.slice(0, 40);
changed[0] = { role: "system", content: "You are a helpful assistant who answers in two short sentences." };
const { prefix } = await ask(server, changed);
verdict(prefix.cached_text?.includes("one") && prefix.prompt_text?.includes("two") && prefix.first_difference > 0,
    "it is told which token differs", prefix);
equal("the server ends", (await server.stop()).code, 0);

// ---- files that are no good ----

const files = (await settled()).filter((name) => name.endsWith(".kv"));
const first = files.filter((name) => name.includes("-0000000."));
for (const name of first) {
    const bytes = readFileSync(join(folder, name));
    bytes[bytes.length - 5] ^= 4;
    writeFileSync(join(folder, name), bytes);
}
server = await serve(...options);
equal("damaged files change no answer", (await ask(server, messages.slice(0, 2))).choices[0].message.content,
    messages[2].content);
const again = await ask(server, messages.slice(0, 40), { max_tokens: 40 });
equal("none is read", [again.prefix.restored_tokens, await metric(server, "quern:prompt_tokens_restored_total")], [0, 0]);
verdict(/damaged.*ignored/.test(server.said()), "and that is said", server.said());
await server.stop();

// ---- room ----

const limit = 1 << 21;
server = await serve(...options, "--prefix-cache-size", "2MiB");
await ask(server, messages);
await server.stop();
const bytes = readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
verdict(bytes <= limit && bytes > limit / 2, "the files keep to their size", bytes);
equal("the folder is the user's alone", statSync(folder).mode & 0o777, 0o700);
plan();
