#!/bin/sh
# Calls of tools beside a form, strict ones, one at a time: in the style of a model whose template has none (the demo model), and of one
# whose template tags calls and thinking, and whose answers are drawn of random weights.
set -eu
. "$(dirname "$0")/../serving.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/quern-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
tar xJf "$SRC/tests/data/conformance.tar.xz" -C "$work" conformance/llama_tied
cat >"$work/conformance/llama_tied/chat_template.jinja" <<'END'
{%- for m in messages %}{{ m.content }}{% endfor %}{% if tools %}<tool_call>{% endif %}{% if false %}<think>{% endif -%}
END
cp -r "$work/conformance/llama_tied" "$work/opened"
cat >"$work/opened/chat_template.jinja" <<'END'
{%- for m in messages %}{{ m.content }}{% endfor %}{% if tools %}<tool_call>{% endif %}<think>{{ "\n" * 12 }}
END
TAGGED="$work/conformance/llama_tied" OPENED="$work/opened" node "$(dirname "$0")/tools.mjs"
