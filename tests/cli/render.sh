#!/bin/sh
# render: the contract of the command. What templates do is tested with the template engine.
. "$(dirname "$0")/../cli_tap.sh"

cat >"$W/t.jinja" <<'END'
{{ bos_token }}{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}{% if tools %}{{ tools | length }} tools{% endif %}{% if add_generation_prompt %}[assistant:{% endif %}{{ eos_token }}{% if extra is defined %}{{ extra }}{% endif %}
END
printf '[{"role":"user","content":"Hi \\u00e9"}]' >"$W/m.json"
ran "a template" 0 "$QUERN" render "$W/t.jinja" --messages "$W/m.json"
printf '[user: Hi \303\251]' >"$W/expected"
same "nothing but the rendering, bos and eos empty" "$W/expected" "$W/out"
ran "all options" 0 "$QUERN" render "$W/t.jinja" --messages "$W/m.json" --add-generation-prompt --bos '<s>' --eos '</s>' \
    --kwargs '{"extra":"more"}'
printf '<s>[user: Hi \303\251][assistant:</s>more' >"$W/expected"
same "arrive" "$W/expected" "$W/out"
printf '[{"type":"function","function":{"name":"f"}}]' >"$W/tools.json"
ran "--tools" 0 "$QUERN" render "$W/t.jinja" --messages "$W/m.json" --tools "$W/tools.json"
holds "arrive" "$W/out" "1 tools"
printf '{"messages":[{"role":"user","content":"Yo"}],"tools":[{},{}],"other":1}' >"$W/o.json"
ran "an object with messages and tools" 0 "$QUERN" render "$W/t.jinja" --messages "$W/o.json"
printf '[user: Yo]2 tools' >"$W/expected"
same "is taken apart" "$W/expected" "$W/out"
printf '{"messages":[{"role":"user","content":"Yo"}],"tools":null}' >"$W/o.json"
fed "standard input, tools null" 0 "$W/o.json" "$QUERN" render "$W/t.jinja" --messages -
printf '[user: Yo]' >"$W/expected"
same "is as good as none" "$W/expected" "$W/out"
printf '{{ strftime_now("%%Y-%%m-%%d %%H:%%M:%%S %%a") }}' >"$W/now.jinja"
for now in "2026-01-15 12:00:00 Thu" "2000-02-29 23:59:59 Tue" "1970-01-02 00:00:00 Fri" "2100-03-01 01:02:03 Mon"; do
    ran "--now" 0 "$QUERN" render "$W/now.jinja" --messages "$W/m.json" --now "${now% *}"
    printf '%s' "$now" >"$W/expected"
    same "is the clock of the template: $now" "$W/expected" "$W/out"
done
for now in "2026-01-15" "2026-13-15 12:00:00" "2026-01-15 25:00:00" "yesterday" "2026-01-15 12:00:00Z" "-026-01-15 12:00:00"; do
    ran "--now $now" 2 "$QUERN" render "$W/now.jinja" --messages "$W/m.json" --now "$now"
done
printf '{{ raise_exception("Only users may speak!") }}' >"$W/no.jinja"
ran "a template's own refusal" 1 "$QUERN" render "$W/no.jinja" --messages "$W/m.json"
one_line "one plain line"
holds "with its message" "$W/err" "Only users may speak!"
[ ! -s "$W/out" ]
verdict $? "and no rendering" "$W/out"

# The template of a model.
ran "a model" 0 "$QUERN" render "$DEMO" --messages "$W/m.json" --add-generation-prompt
printf '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi \303\251<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n' \
    >"$W/expected"
same "its template and its BOS" "$W/expected" "$W/out"
ran "another BOS" 0 "$QUERN" render "$DEMO" --messages "$W/m.json" --bos ''
holds "is used" "$W/out" "<|start_header_id|>user"
! grep -q begin_of_text "$W/out"
verdict $? "in place of the model's" "$W/out"

# What cannot be rendered.
ran "no --messages" 2 "$QUERN" render "$W/t.jinja"
ran "no template" 2 "$QUERN" render --messages "$W/m.json"
ran "messages that are not there" 1 "$QUERN" render "$W/t.jinja" --messages "$W/none.json"
one_line "one plain line"
printf '[{"role":' >"$W/bad.json"
ran "messages that are no JSON" 1 "$QUERN" render "$W/t.jinja" --messages "$W/bad.json"
one_line "one plain line"
printf '"hello"' >"$W/bad.json"
ran "messages that are no array" 1 "$QUERN" render "$W/t.jinja" --messages "$W/bad.json"
printf '{"tools":[]}' >"$W/bad.json"
ran "an object without messages" 1 "$QUERN" render "$W/t.jinja" --messages "$W/bad.json"
ran "kwargs that are no object" 1 "$QUERN" render "$W/t.jinja" --messages "$W/m.json" --kwargs '[1]'
printf '{%% if %%}' >"$W/bad.jinja"
ran "a template that does not compile" 1 "$QUERN" render "$W/bad.jinja" --messages "$W/m.json"
one_line "one plain line"
ran "a template that is not there" 1 "$QUERN" render "$W/none.jinja" --messages "$W/m.json"
one_line "one plain line"
plan
