// What the tests of the server share: TAP, and a quern serve of the demo model on a free port.
import { spawn } from "node:child_process";

let count = 0;

export function verdict(ok, name, ...shown) {
    console.log(`${ok ? "ok" : "not ok"} ${++count} - ${name}`);
    if (!ok) for (const s of shown) console.log(`# ${JSON.stringify(s)}`.slice(0, 500));
}

export function equal(name, got, want) {
    verdict(JSON.stringify(got) === JSON.stringify(want), name, { got, want });
}

// What a promise throws; null: nothing.
export async function raised(promise) {
    try {
        await promise;
    } catch (e) {
        return e;
    }
    return null;
}

export function plan() {
    console.log(`1..${count}`);
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// { url, port, exited: promise of { code, signal }, stop(), kill(): at once, said(): standard error so far }. Nothing is kept on
// disk but with --prefix-cache.
export function serve(...options) {
    const child = spawn(process.env.QUERN, ["serve", process.env.DEMO, "--port", "0", "--prefix-cache", "none", ...options],
        { stdio: ["ignore", "ignore", "pipe"] });
    const exited = new Promise((resolve) => child.on("exit", (code, signal) => resolve({ code, signal })));
    process.on("exit", () => child.kill("SIGKILL"));
    return new Promise((resolve, reject) => {
        let said = "";
        exited.then(() => reject(new Error(`the server ended: ${said}`)));
        child.stderr.on("data", (data) => {
            said += data;
            const at = /listens on (http:\/\/[^\s]*:(\d+))/.exec(said);
            if (!at) return;
            const stop = () => (child.kill("SIGTERM"), exited);
            const kill = () => (child.kill("SIGKILL"), exited);
            resolve({ url: at[1], port: Number(at[2]), exited, stop, kill, said: () => said });
        });
    });
}

export async function metric(server, name) {
    const text = await (await fetch(`${server.url}/metrics`)).text();
    return Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1]);
}
