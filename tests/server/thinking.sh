#!/bin/sh
# How hard a model is to think, as the dialects say it, reaches the variables that templates have for it.
set -eu
. "$(dirname "$0")/../serving.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar xJf "$SRC/tests/data/conformance.tar.xz" -C "$work" conformance/llama_tied
cd "$work"
# The prompt tells by its length what the template was told.
cat >conformance/llama_tied/chat_template.jinja <<'EOF'
{%- set effort = {"low": 2, "high": 4}[reasoning_effort|default("none")]|default(1) -%}
{%- set on = 10 if enable_thinking is defined and enable_thinking else 20 if enable_thinking is defined else 0 -%}
{%- for i in range(effort + on) %}</s>{% endfor -%}
EOF
DEMO=conformance/llama_tied node "$SRC/tests/server/thinking.mjs"
