// Schemas made at random, from a fixed seed. Each is answered with equal odds for all tokens that its masks allow (draw_answers),
// which finds their odd corners, and some by the model, through the server.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { equal, plan, serve, verdict } from "./served.mjs";

const require = createRequire(`${process.env.PACKAGES}/`);
const Ajv = require("ajv/dist/2020").default;
const formats = require("ajv-formats").default;

const COUNT = Number(process.env.SCHEMAS ?? 1000);
const SERVED = COUNT / 20;
const TOGETHER = 8;

let state = 20260115;
function random() {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const below = (n) => Math.floor(random() * n);
const pick = (list) => list[below(list.length)];
const chance = (p) => random() < p;

// ---- schemas that can be honoured ----

const NAMES = ["a", "b", "name", "size", "naïve", "x y", "a/b~c", "q\"uote", "list", "n", "nam", "kind", ""];
const PATTERNS = ["^[a-z]{1,8}$", "^\\d{3}-\\d{2}$", "^(red|green|blue)$", "^[A-Z][a-z]*[.!]?$", "b{2}", "^a|z$", "^\\S+@\\S+$", "^[^\"\\\\]{0,5}$",
    "^\"\\\\\\n$", "^\\w+\\s\\w+$", "^.{2,4}$", "^$|(^a+$)", "^(?!b|a.$)(?=.*[a-c])[a-f]{1,4}$", "(^[0-9]{2}|b)(b|$)", "^[à-ÿ😀-😎]+$"];
const FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "duration", "url", "uri-reference", "uri-template",
    "json-pointer", "relative-json-pointer", "regex", "byte", "iri", "idn-email"];
// Keys that are none of NAMES; two patterns that can match one key say what goes together.
const KEYS = [{ "^x-": { type: "integer" } }, { "^x-": { type: ["integer", "null"] }, "\\d$": { type: "integer", minimum: 3, maximum: 90 } },
    { "^[A-Z]{2}$": { type: "boolean" }, "^[0-9]+$": { type: "null" } }];

function bounds(whole) {
    const scale = pick([1, 10, 1000, 123456]), digits = whole ? 0 : below(4);
    const lo = Number(((random() * 2 - 1) * scale).toFixed(digits)), hi = Number((lo + 1 + random() * scale).toFixed(digits));
    const out = {};
    if (chance(0.7)) out[chance(0.7) ? "minimum" : "exclusiveMinimum"] = lo - (whole ? 1 : 0);
    if (chance(0.7)) out[chance(0.7) ? "maximum" : "exclusiveMaximum"] = hi + (whole ? 1 : 0);
    return out;
}

function string() {
    switch (below(5)) {
    case 0: return { type: "string", pattern: pick(PATTERNS) };
    case 1: return { type: "string", format: pick(FORMATS) };
    case 2: return pick([{ type: "string" }, { type: "string", maxLength: 20 }, { type: "string", format: pick(["uri", "email"]), maxLength: 50 },
        { type: "string", pattern: "^[a-z]+(-[a-z]+)*$", minLength: 2, maxLength: 9 }, { type: "string", pattern: "\\d", maxLength: 6 },
        { type: "string", allOf: [{ pattern: "^[a-f]" }, { pattern: "[0-9]$" }], maxLength: 8 }, { enum: ["ab", "b", "c1"], pattern: "b|\\d" }]);
    default: {
        const min = below(4);
        return { type: "string", ...(chance(0.5) ? { minLength: min } : {}), maxLength: min + below(10) };
    }
    }
}

const scalar = () => pick([
    string, string, () => ({ type: "integer", ...bounds(true) }), () => ({ type: "number", ...bounds(false) }),
    () => ({ type: "boolean" }), () => ({ type: "null" }), () => ({ type: pick([["string", "null"], ["integer", "boolean"]]) }),
    () => ({ enum: [pick(NAMES), below(100), null, { a: [1, "é"] }].slice(below(3)) }), () => ({ const: pick([true, "fixed", 1.5, [1, 2], {}]) }),
])();

function array(depth) {
    const min = below(3);
    if (chance(0.1)) return { type: "array", items: { enum: ["a", "b", 3, null, "é"] }, uniqueItems: true, minItems: min, maxItems: min + below(3) };
    if (chance(0.1)) return { type: "array", items: { type: "integer", maximum: 50 }, contains: { minimum: pick([0, 40]) }, maxItems: 1 + min };
    if (chance(0.3)) return { type: "array", prefixItems: [schema(depth), schema(depth)], minItems: min, items: chance(0.5) ? false : scalar(),
        maxItems: 3 };
    return { type: "array", items: schema(depth), minItems: min, maxItems: min + below(3) };
}

function object(depth, kind) {
    const properties = {};
    for (let i = below(4); i >= 0; i--) properties[pick(NAMES)] = schema(depth);
    if (kind !== undefined) properties.kind = { const: kind };
    const required = Object.keys(properties).filter((name) => name === "kind" || chance(0.6));
    const out = { type: "object", properties };
    if (required.length) out.required = required;
    if (chance(0.4)) out.additionalProperties = chance(0.6) ? false : { type: "integer", minimum: 0, maximum: 9 };
    if (chance(0.15)) out.patternProperties = pick(KEYS);
    if (chance(0.1)) out.minProperties = below(Object.keys(properties).length);
    if (chance(0.1)) out.maxProperties = Math.max(required.length, out.minProperties ?? 0, below(4));
    if (chance(0.1) && !out.minProperties) out.propertyNames = { pattern: "[a-z]|^$", maxLength: 8 };
    if (chance(0.2)) out.description = "an object";
    return out;
}

// What holds of a value by what others of its members are, or are not.
const logic = () => pick([
    () => ({ type: "object", properties: { a: scalar(), b: scalar(), c: { type: "integer", minimum: 0 } }, dependencies: { a: ["b"] },
        dependentSchemas: { c: { required: ["b"] } } }),
    () => ({ type: "object", properties: { k: { enum: ["x", "y", 3] }, v: scalar(), w: scalar() }, required: ["k"],
        if: { properties: { k: { const: "x" } } }, then: { required: ["v"] }, else: { required: ["w"], properties: { v: false } } }),
    () => ({ type: "object", properties: { a: scalar(), b: scalar(), c: scalar() }, oneOf: [{ required: ["a"] }, { required: ["b", "c"] }] }),
    () => ({ type: "object", properties: { a: scalar(), b: scalar() }, not: { required: ["a", "b"] } }),
    () => ({ type: "object", properties: { a: scalar() }, required: ["a"], unevaluatedProperties: false, allOf: [{ properties: { b: scalar() } }],
        anyOf: [{ properties: { c: scalar() }, required: ["c"] }, { additionalProperties: { type: "integer", minimum: 5, maximum: 5 },
            properties: { a: true, b: true } }], if: { required: ["b"] }, then: { properties: { d: scalar() } } }),
    () => ({ not: { anyOf: [{ type: ["object", "array"] }, { type: "string", minLength: 4 }, { minimum: 10 }] }, type: pick([["string", "number"],
        ["boolean", "integer", "object"]]) }),
    () => ({ type: ["string", "integer"], maxLength: 5, minimum: -30, maximum: 30, not: { enum: ["", "a", -1, 7, 29] } }),
    () => ({ type: "string", minLength: 1, maxLength: 6, not: { pattern: pick(["^a", "[0-9]", "e$"]) } }),
    () => ({ oneOf: [{ type: "string", maxLength: 3 }, { type: "string", pattern: "^[a-d]{2,6}$" }, { type: "number", maximum: 25 }, { type: "integer",
        minimum: 20, maximum: 33 }] }),
    () => ({ type: pick(["integer", "number"]), multipleOf: pick([1, 2, 7, 10, 64, 0.5, 0.25, 0.01]),
        minimum: -below(200), maximum: 64 + below(300) }),
    () => ({ oneOf: [{ type: "object", properties: { a: scalar(), b: scalar() }, additionalProperties: false, required: ["a"] }, { type: "object",
        properties: { a: scalar(), c: scalar() }, additionalProperties: false }] }),
])();

function combined(depth) {
    switch (below(4)) {
    case 0: return { anyOf: [schema(depth), schema(depth)] };
    case 1: return { oneOf: [{ type: "integer" }, string(), { type: "array", items: { type: "null" }, maxItems: 2 }] };
    case 2: return { oneOf: [object(depth, 1), object(depth, 2)] };
    default: {
        const first = object(depth), second = object(depth);
        for (const name of ["additionalProperties", "minProperties", "maxProperties"]) delete first[name], delete second[name];
        for (const name of Object.keys(first.properties)) delete second.properties[name];
        return { allOf: [first, second] };
    }
    }
}

function schema(depth) {
    if (depth <= 0) return chance(0.1) ? { $ref: "#/$defs/shared" } : scalar();
    return pick([scalar, scalar, logic, () => array(depth - 1), () => object(depth - 1), () => object(depth - 1), () => combined(depth - 1)])();
}

function whole() {
    const root = pick([() => object(2), () => object(1), () => array(1), () => combined(1), () => schema(2)])();
    const shared = chance(0.3) ? { type: "object", properties: { v: { type: "integer", minimum: 0, maximum: 9 }, next: { $ref: "#/$defs/shared" } },
        required: ["v"], additionalProperties: false } : scalar();
    return { ...root, $defs: { shared } };
}

// ---- schemas that cannot ----

// Not of the form that the drafts give.
const MALFORMED = [
    { type: "strin" }, { type: 7 }, { type: [] }, { type: ["string", "text"] }, { type: ["string", "string"] },
    { minLength: -1 }, { maxLength: "5" }, { minItems: 1.5 }, { minProperties: -1 }, { minimum: "0" }, { exclusiveMinimum: true },
    { type: "number", multipleOf: 0 }, { uniqueItems: 1 }, { minContains: "1" }, { maxContains: -1 },
    { enum: "a" }, { required: "name" }, { required: [1] }, { required: ["a", "a"] }, { dependentRequired: { a: "b" } },
    { dependentRequired: { a: ["b", "b"] } }, { dependentSchemas: { a: ["b"] } }, { dependencies: { a: [1] } },
    { properties: [] }, { properties: { a: 1 } }, { patternProperties: { a: 1 } }, { additionalProperties: "no" }, { propertyNames: 1 },
    { items: 3 }, { prefixItems: [] }, { contains: "a" }, { anyOf: {} }, { anyOf: [] }, { allOf: [1] }, { not: 1 }, { if: "a" },
    { unevaluatedItems: 3 }, { unevaluatedProperties: [] }, { format: 1 }, { pattern: 1 },
    { $ref: 1 }, { $dynamicRef: 3 }, { $id: 3 }, { $anchor: 5 }, { $anchor: "a b" }, { $dynamicAnchor: "" }, { $schema: 3 },
    { $vocabulary: { "https://example.com/v": 1 } }, { $comment: 3 }, { title: 3 }, { description: [1] }, { examples: 3 },
    { readOnly: "x" }, { writeOnly: 1 }, { deprecated: 1 }, { contentEncoding: 4 }, { contentMediaType: 4 }, { contentSchema: 4 },
    { $defs: 1 }, { $defs: { a: 3 } }, { $defs: { a: { items: 5 } } }, { definitions: { a: { $defs: { b: { title: {} } } } } },
];

// What goes wrong, and whether it is wrong for everybody, so that ajv must agree.
const BROKEN = [
    ...MALFORMED.map((part) => [part, true]),
    [{ $ref: "#/$defs/missing" }, true], [{ pattern: "(" }, true], [{ pattern: "[z-a]" }, true], [{ pattern: "a{2,1}" }, true], [{ pattern: "*" }, true],
    [{ not: { format: "date" } }, false], [{ if: { format: "date" }, then: {} }, false], [{ type: "array", uniqueItems: true }, false],
    [{ type: "number", multipleOf: 12345 }, false], [{ type: "object", patternProperties: { "(?=a)": {} } }, false],
    [{ type: "object", minProperties: 2 }, false], [{ type: "object", propertyNames: { anyOf: [{}] } }, false],
    [{ type: "array", unevaluatedItems: { type: "null" } }, false],
    [{ pattern: "a(?=b)" }, false], [{ pattern: "(a)\\1" }, false],
    [{ pattern: "\\bword\\b" }, false], [{ oneOf: [{ format: "date" }, { format: "time" }] }, false], [{ $ref: "https://example.com/s" }, false],
    [{ type: "string", pattern: "^a{4}$", maxLength: 3 }, false], [{ pattern: "a.{20}$", maxLength: 99 }, false], [{ enum: ["a"], format: "date" }, false], [{ unevaluatedProperties: { type: "null" } }, false],
    [{ type: "integer", minimum: 5, maximum: 4 }, false], [{ type: "string", minLength: 3, maxLength: 2 }, false],
];

// Puts part somewhere into a schema that could be honoured; what is malformed, also where nothing refers to it.
function broken(i) {
    const [part, everybody] = BROKEN[i % BROKEN.length];
    switch (i < BROKEN.length ? 0 : below(MALFORMED.includes(part) ? 6 : 5)) {
    case 0: return [part, everybody];
    case 1: return [{ type: "object", properties: { ok: scalar(), bad: part }, required: ["bad"] }, everybody];
    case 2: return [{ type: "array", items: part, minItems: 1 }, everybody];
    case 3: return [{ type: "object", properties: { list: { type: "array", prefixItems: [part], minItems: 1 } }, required: ["list"] }, everybody];
    case 4: return [{ allOf: [{ $ref: "#/$defs/bad" }], $defs: { bad: part } }, everybody && part.$ref === undefined];
    default: return [{ ...scalar(), [pick(["$defs", "definitions"])]: { ok: scalar(), bad: { anyOf: [scalar(), part] } } }, everybody];
    }
}

// ---- the test ----

const server = await serve("--parallel", String(TOGETHER), "--ctx", "1024");
const ajv = new Ajv({ strict: false, multipleOfPrecision: 6, allErrors: true, validateFormats: true, logger: false });
formats(ajv);

async function ask(json_schema, options) {
    const body = JSON.stringify({ prompt: "Here is it:", json_schema, ...options });
    const reply = await fetch(`${server.url}/completion`, { method: "POST", body });
    return { status: reply.status, ...(await reply.json()) };
}

async function all(count, one) {
    let next = 0;
    await Promise.all(Array.from({ length: TOGETHER }, async () => {
        while (next < count) await one(next++);
    }));
}

const schemas = Array.from({ length: COUNT }, whole);

function problem_of(schema, text) {
    try {
        return ajv.validate(schema, JSON.parse(text)) ? null : ajv.errorsText();
    } catch (e) {
        return e.message;
    }
}

const drawn = spawnSync(process.env.DRAW, [process.env.DEMO], { input: schemas.map((s) => JSON.stringify(s)).join("\n") + "\n",
    encoding: "utf8", maxBuffer: 1 << 28 });
const lines = drawn.stdout.trim().split("\n").map((line) => JSON.parse(line));
const bad = lines.map((r, i) => ({ problem: r.error ?? problem_of(schemas[i], r.answer), answer: r.answer, schema: schemas[i] }))
    .filter((r) => r.problem);
verdict(drawn.status === 0 && lines.length === COUNT && bad.length === 0, `${COUNT} schemas: all answers drawn at random satisfy them`,
    drawn.stderr, lines.length, bad.length, ...bad.slice(0, 5));
const wrong = [];
let cut = 0;
await all(SERVED, async (i) => {
    const r = await ask(schemas[i], { n_predict: 300, seed: i, temperature: 1 });
    if (r.stop_type === "limit") return void cut++;
    const problem = r.error?.message ?? problem_of(schemas[i], r.content);
    if (problem) wrong.push({ problem, content: r.content, schema: schemas[i] });
});
verdict(wrong.length === 0, `${SERVED} of them: all answers of the model that are complete satisfy them`, wrong.length, ...wrong.slice(0, 5));
verdict(cut <= SERVED / 2, "most are", cut);

const taken = [], doubtful = [], vague = [];
await all(COUNT, async (i) => {
    const [bad, everybody] = broken(i);
    const r = await ask(bad, { n_predict: 1 });
    if (r.status !== 400) taken.push({ status: r.status, bad });
    else if (!/schema, (#|line)|no finite text/.test(r.error.message)) vague.push({ message: r.error.message, bad });
    let compiled = true;
    try {
        new Ajv({ strict: false, logger: false }).compile(bad);
    } catch {
        compiled = false;
    }
    if (everybody && compiled) doubtful.push(bad);
});
verdict(taken.length === 0, `${COUNT} schemas that cannot be honoured: all are refused`, taken.length, ...taken.slice(0, 5));
verdict(vague.length === 0, "with the place, or that nothing satisfies them", vague.length, ...vague.slice(0, 5));
equal("those that are malformed are so for ajv, too", doubtful.slice(0, 5), []);

const { code } = await server.stop();
equal("the server is well", code, 0);
plan();
