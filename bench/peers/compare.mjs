// Compares Quern with other engines on one model file: each in turn, several rounds, medians and ratios as a Markdown table.
// run.sh calls it; the options are described there.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const { values: args, positionals } = parseArgs({
    allowPositionals: true,
    options: {
        quern: { type: "string", default: join(here, "../../build/quern") },
        "llama-bench": { type: "string", multiple: true, default: [] },
        node: { type: "string" }, // the folder where node-llama-cpp is installed
        prompts: { type: "string", short: "p", default: "512" },
        answers: { type: "string", short: "n", default: "64" },
        depths: { type: "string", short: "d", default: "0" },
        rounds: { type: "string", short: "r", default: "3" },
        threads: { type: "string", short: "t", default: "2" },
    },
});
const model = positionals[0];
const numbers = (list) => list.split(",").map(Number);
const sizes = { prompts: numbers(args.prompts), answers: numbers(args.answers), depths: numbers(args.depths) };

function output(program, argv, options = {}) {
    const run = spawnSync(program, argv, { encoding: "utf8", maxBuffer: 1 << 26, ...options });
    if (run.status !== 0) throw new Error(`${program} ${argv.join(" ")}: ${run.error ?? run.stderr.slice(-500)}`);
    return run.stdout;
}

const at = (depth) => (depth ? `@d${depth}` : "");

function quern() {
    const text = output(args.quern, ["bench", model, "-p", args.prompts, "-n", args.answers, "-d", args.depths, "-r", "1",
        "-t", args.threads, "--json"]);
    const rows = JSON.parse(text).rows;
    const fractions = Object.fromEntries(rows.map((row) => [row.test, row.fraction_of_limit]));
    return { speeds: Object.fromEntries(rows.map((row) => [row.test, row.tokens_per_second])), fractions };
}

// llama.cpp's llama-bench has -d; older ones write after a prompt with -gp, and cannot read at a depth.
function llamaBench(program) {
    const hasDepth = /--n-depth/.test(spawnSync(program, ["--help"], { encoding: "utf8" }).stdout ?? "");
    return () => {
        const argv = ["-m", model, "-p", args.prompts, "-n", args.answers, "-t", args.threads, "-r", "1", "-o", "json"];
        const deep = sizes.depths.filter((d) => d > 0);
        if (hasDepth) argv.push("-d", args.depths);
        else for (const d of deep) for (const n of sizes.answers) argv.push("-gp", `${d},${n}`);
        const speeds = {};
        for (const row of JSON.parse(output(program, argv))) {
            const depth = row.n_depth ?? (row.n_gen ? row.n_prompt : 0);
            speeds[(row.n_gen ? `tg${row.n_gen}` : `pp${row.n_prompt}`) + at(depth)] = row.avg_ts;
        }
        return { speeds };
    };
}

function nodeLlamaCpp(folder) {
    const script = join(folder, "node_llama_cpp.mjs");
    const options = JSON.stringify({ ...sizes, threads: Number(args.threads) });
    return () => ({ speeds: JSON.parse(output(process.execPath, [script, model, options], { cwd: folder })) });
}

const engines = [{ name: "quern", run: quern }];
for (const peer of args["llama-bench"]) {
    const [, name = "llama-bench", program] = peer.match(/^(?:([^=/]+)=)?(.+)$/);
    engines.push({ name, run: llamaBench(program) });
}
if (args.node) engines.push({ name: "node-llama-cpp", run: nodeLlamaCpp(args.node) });

for (const engine of engines) engine.results = [];
for (let round = 0; round < Number(args.rounds); round++) {
    for (const engine of engines) {
        process.stderr.write(`round ${round + 1}: ${engine.name}\n`);
        engine.results.push(engine.run());
    }
}

function median(values) {
    const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
    return sorted.length ? (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2 : NaN;
}

const speed = (engine, test) => median(engine.results.map((r) => r.speeds[test]));
const shown = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "-");
const [ours, ...peers] = engines;
console.log(`| test | quern tok/s | of limit |${peers.map((p) => ` ${p.name} tok/s | ratio |`).join("")}`);
console.log(`|---|---:|---:|${peers.map(() => "---:|---:|").join("")}`);
for (const test of Object.keys(ours.results[0].speeds)) {
    const fraction = median(ours.results.map((r) => r.fractions[test]));
    const cells = peers.map((p) => ` ${shown(speed(p, test), 1)} | ${shown(speed(ours, test) / speed(p, test), 2)} |`);
    console.log(`| ${test} | ${shown(speed(ours, test), 1)} | ${shown(100 * fraction, 0)} % |${cells.join("")}`);
}
