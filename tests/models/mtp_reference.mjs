// What the head for multi-token prediction of a small model expects, computed in doubles from its definition (DeepSeek-V3,
// arXiv 2412.19437, section 2.2; the order of the two halves and the norms as in the published checkpoints):
//
//   x = W [norm(embedding of the token); norm(vector left by the token before)]
//   y = one decoder layer of x, whose attention sees the rows before
//   left = norm(y), logits = output matrix times left
//
// usage: node mtp_reference.mjs FOLDER OUT
//
// FOLDER: one that make_mtp has written. OUT: f32 of N rows, each its logits, then what it leaves. tests/unit/data/mtp holds the
// results; test_mtp.c gives the program the same tokens and vectors.
import { readFileSync, writeFileSync } from 'node:fs';

const N = 12;
const [folder, out] = process.argv.slice(2);
const config = JSON.parse(readFileSync(`${folder}/config.json`));
const file = readFileSync(`${folder}/model.safetensors`);
const headerBytes = Number(file.readBigUInt64LE(0));
const header = JSON.parse(file.subarray(8, 8 + headerBytes));

// ---- tensors ------------------------------------------------------------------------------------------------------------

function find(name) {
    const t = header[name];
    if (!t) return null;
    const at = 8 + headerBytes + t.data_offsets[0], n = t.shape.reduce((a, b) => a * b, 1), v = new Float64Array(n);
    const word = new DataView(new ArrayBuffer(4));
    for (let i = 0; i < n; i++) {
        word.setUint32(0, file.readUInt16LE(at + 2 * i) << 16); // bf16
        v[i] = word.getFloat32(0);
    }
    return { v, rows: t.shape.length > 1 ? t.shape[0] : 1, cols: t.shape[t.shape.length - 1] };
}

function need(name) {
    const t = find(name);
    if (!t) throw new Error(`${name} is missing`);
    return t;
}

function times(w, x, bias) {
    const y = new Array(w.rows);
    for (let r = 0; r < w.rows; r++) {
        let sum = bias ? bias.v[r] : 0;
        for (let c = 0; c < w.cols; c++) sum += w.v[r * w.cols + c] * x[c];
        y[r] = sum;
    }
    return y;
}

const qwen = config.architectures[0].startsWith('Qwen3');
const eps = config.rms_norm_eps;

// Qwen stores the weights of norms less 1.
function norm(w, x) {
    const mean = x.reduce((a, b) => a + b * b, 0) / x.length, f = 1 / Math.sqrt(mean + eps);
    return x.map((v, i) => v * f * (w.v[i] + (qwen ? 1 : 0)));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x)), silu = (x) => x * sigmoid(x);
const sum = (a, b) => a.map((v, i) => v + b[i]);

// ---- attention ----------------------------------------------------------------------------------------------------------

// Turns the first n elements; pairs are neighbours, or n / 2 apart.
function rotate(x, n, pos, neighbours) {
    const y = x.slice();
    for (let i = 0; i < n / 2; i++) {
        const angle = pos * config.rope_theta ** (-2 * i / n), c = Math.cos(angle), s = Math.sin(angle);
        const [a, b] = neighbours ? [2 * i, 2 * i + 1] : [i, i + n / 2];
        y[a] = x[a] * c - x[b] * s;
        y[b] = x[a] * s + x[b] * c;
    }
    return y;
}

const heads = (x, n) => Array.from({ length: n }, (_, h) => x.slice(h * x.length / n, (h + 1) * x.length / n));

// q, keys, values: [heads][elements], keys and values for each position so far.
function attend(q, keys, values) {
    const n = q.length, shared = n / keys[0].length;
    return q.flatMap((query, h) => {
        const kv = Math.floor(h / shared);
        const scores = keys.map((k) => query.reduce((a, v, i) => a + v * k[kv][i], 0) / Math.sqrt(query.length));
        const most = Math.max(...scores), weights = scores.map((s) => Math.exp(s - most));
        const total = weights.reduce((a, b) => a + b, 0);
        return values[0][kv].map((_, i) => weights.reduce((a, w, p) => a + w * values[p][kv][i], 0) / total);
    });
}

function attention(p, x, pos, cache) {
    const nHeads = config.num_attention_heads, nKv = config.num_key_value_heads, dim = config.head_dim;
    const turned = dim * config.partial_rotary_factor;
    const part = (c) => times(need(`${p}self_attn.${c}_proj.weight`), x, find(`${p}self_attn.${c}_proj.bias`));
    const qNorm = need(`${p}self_attn.q_norm.weight`), kNorm = need(`${p}self_attn.k_norm.weight`);
    let q = heads(part('q'), nHeads);
    const gate = qwen ? q.flatMap((h) => h.slice(dim)) : null; // of each head its query, then its gate
    q = q.map((h) => rotate(norm(qNorm, h.slice(0, dim)), turned, pos, false));
    cache.keys.push(heads(part('k'), nKv).map((h) => rotate(norm(kNorm, h), turned, pos, false)));
    cache.values.push(heads(part('v'), nKv));
    const a = attend(q, cache.keys, cache.values);
    return times(need(`${p}self_attn.o_proj.weight`), gate ? a.map((v, i) => v * sigmoid(gate[i])) : a);
}

// Multi-head latent attention as it is defined, not in its absorbed form.
function latent(p, x, pos, cache) {
    const w = (name) => need(`${p}self_attn.${name}.weight`), nHeads = config.num_attention_heads;
    const { qk_nope_head_dim: nope, qk_rope_head_dim: turned, kv_lora_rank: rank } = config;
    const q = heads(times(w('q_b_proj'), norm(w('q_a_layernorm'), times(w('q_a_proj'), x))), nHeads)
        .map((h) => [...h.slice(0, nope), ...rotate(h.slice(nope), turned, pos, true)]);
    const kv = times(w('kv_a_proj_with_mqa'), x), k = rotate(kv.slice(rank), turned, pos, true);
    const both = heads(times(w('kv_b_proj'), norm(w('kv_a_layernorm'), kv.slice(0, rank))), nHeads);
    cache.keys.push(both.map((h) => [...h.slice(0, nope), ...k]));
    cache.values.push(both.map((h) => h.slice(nope)));
    return times(w('o_proj'), attend(q, cache.keys, cache.values));
}

// ---- feed-forward -------------------------------------------------------------------------------------------------------

function feed(p, x) {
    const up = times(need(`${p}up_proj.weight`), x);
    return times(need(`${p}down_proj.weight`), times(need(`${p}gate_proj.weight`), x).map((v, i) => silu(v) * up[i]));
}

const largest = (list, n) => list.map((v, i) => [v, i]).sort((a, b) => b[0] - a[0]).slice(0, n).map((e) => e[1]);

// Which experts, and by how much.
function route(p, x) {
    const logits = times(need(`${p}gate.weight`), x), used = config.num_experts_per_tok;
    let scores, chosen;
    if (qwen) {
        const most = Math.max(...logits), e = logits.map((v) => Math.exp(v - most)), total = e.reduce((a, b) => a + b, 0);
        scores = e.map((v) => v / total);
        chosen = largest(scores, used);
    } else {
        scores = logits.map(sigmoid);
        const bias = need(`${p}gate.e_score_correction_bias`), choice = scores.map((v, i) => v + bias.v[i]);
        // The groups whose best two have the largest sums.
        const size = choice.length / config.n_group, groups = heads(choice, config.n_group);
        const best = largest(groups.map((g) => largest(g, 2).reduce((a, i) => a + g[i], 0)), config.topk_group);
        chosen = largest(choice.map((v, i) => (best.includes(Math.floor(i / size)) ? v : -Infinity)), used);
    }
    const total = chosen.reduce((a, e) => a + scores[e], 0);
    return chosen.map((e) => [e, scores[e] / total * (config.routed_scaling_factor ?? 1)]);
}

function mlp(p, x) {
    if (!find(`${p}gate.weight`)) return feed(p, x);
    let y = x.map(() => 0);
    for (const [e, weight] of route(p, x)) y = sum(y, feed(`${p}experts.${e}.`, x).map((v) => v * weight));
    if (!qwen) return sum(y, feed(`${p}shared_experts.`, x));
    const gate = sigmoid(times(need(`${p}shared_expert_gate.weight`), x)[0]);
    return sum(y, feed(`${p}shared_expert.`, x).map((v) => v * gate));
}

// ---- the head -----------------------------------------------------------------------------------------------------------

const layer = `model.layers.${config.num_hidden_layers}.`, p = qwen ? 'mtp.layers.0.' : layer;
const names = qwen
    ? { join: 'mtp.fc', embd: 'mtp.pre_fc_norm_embedding', input: 'mtp.pre_fc_norm_hidden', last: 'mtp.norm' }
    : { join: `${layer}eh_proj`, embd: `${layer}enorm`, input: `${layer}hnorm`, last: `${layer}shared_head.norm` };
const table = need(qwen ? 'model.embed_tokens.weight' : `${layer}embed_tokens.weight`);
const output = need(qwen ? 'lm_head.weight' : `${layer}shared_head.head.weight`);
const named = (key) => need(`${names[key]}.weight`);
const cache = { keys: [], values: [] };
const result = [];
for (let i = 0; i < N; i++) {
    const token = (i * 37 + 11) % 250, embd = Array.from(table.v.subarray(token * table.cols, (token + 1) * table.cols));
    const input = embd.map((_, c) => ((i * 31 + c * 17) % 23 - 11) / 8);
    const x = times(named('join'), [...norm(named('embd'), embd), ...norm(named('input'), input)]);
    const h = norm(need(`${p}input_layernorm.weight`), x);
    const y = sum(x, config.kv_lora_rank ? latent(p, h, i, cache) : attention(p, h, i, cache));
    const left = norm(named('last'), sum(y, mlp(`${p}mlp.`, norm(need(`${p}post_attention_layernorm.weight`), y))));
    result.push(...times(output, left), ...left);
}
writeFileSync(out, Buffer.from(new Float32Array(result).buffer));
