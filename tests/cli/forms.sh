#!/bin/sh
# forms: answers of a form that options ask for, and forms that cannot be honoured.
. "$(dirname "$0")/../cli_tap.sh"

ask="--temp 0 -n 100"
person='{"type":"object","properties":{"name":{"type":"string","maxLength":20},"age":{"type":"integer","minimum":0,"maximum":120}},
  "required":["name","age"],"additionalProperties":false}'

# The pattern is one of grep -E, for the whole answer.
follows() { # NAME PATTERN
    tr '\n' ' ' <"$W/out" | grep -Eq "^($2) \$"
    verdict $? "$1" "$W/out"
}

ran "a schema" 0 "$QUERN" run "Who are you?" $ask --json-schema "$person"
follows "an object of it" '\{ *"name": *"[^"]{0,20}", *"age": *(1?[0-9]|[1-9][0-9]|1[01][0-9]|120) *\}'
cp "$W/out" "$W/object"
printf '%s' "$person" >"$W/person.json"
ran "-j" 0 "$QUERN" run "Who are you?" $ask -j "$person"
same "the same" "$W/object" "$W/out"
ran "--json-schema-file" 0 "$QUERN" run "Who are you?" $ask -jf "$W/person.json"
same "the same" "$W/object" "$W/out"
ran "with guesses" 0 "$QUERN" run "Who are you?" $ask -j "$person" --speculate lookup
same "the same" "$W/object" "$W/out"
ran "without guesses" 0 "$QUERN" run "Who are you?" $ask -j "$person" --speculate off
same "the same" "$W/object" "$W/out"
ran "any JSON" 0 "$QUERN" run "Describe a person as JSON." $ask -j '{}'
follows "a value" '"[^"]*"'

ran "a grammar" 0 "$QUERN" run "Is water wet?" $ask --grammar 'root ::= "yes" | "no"'
follows "one of its texts" 'yes|no'
cp "$W/out" "$W/yes"
printf 'root ::= "yes" | "no" # a comment\n' >"$W/g.gbnf"
ran "--grammar-file" 0 "$QUERN" run "Is water wet?" $ask --grammar-file "$W/g.gbnf"
same "the same" "$W/yes" "$W/out"
ran "a regular expression" 0 "$QUERN" run "When?" $ask --regex '\d{4}-\d{2}-\d{2}'
follows "a text that matches" '[0-9]{4}-[0-9]{2}-[0-9]{2}'
ran "drawn answers have the form, too" 0 "$QUERN" run "When?" --temp 1.5 --seed 7 --regex '\d{4}-\d{2}-\d{2}'
follows "a text that matches" '[0-9]{4}-[0-9]{2}-[0-9]{2}'
ran "a limit cuts an answer off" 0 "$QUERN" run "When?" --temp 0 -n 2 --regex '\d{4}-\d{2}-\d{2}'
ran "so does a stop" 0 "$QUERN" run "When?" $ask --regex '\d{4}-\d{2}-\d{2}' --stop -
follows "before it" '[0-9]{4}'

# What cannot be honoured is told before the model is read.
refused() { # NAME STATUS TEXT OPTION...
    t_name=$1 t_code=$2 t_text=$3
    shift 3
    ran "$t_name" "$t_code" "$QUERN" run "Hello" "$@"
    holds "says why" "$W/err" "$t_text"
}
refused "a type that is not there" 1 'schema, #/properties/a/type' -j '{"properties":{"a":{"type":"strin"}}}'
refused "a keyword that cannot be honoured" 1 'schema, #/unevaluatedItems' -j '{"unevaluatedItems":{}}'
refused "no JSON" 1 'schema: line 1, column 1' -j 'nope'
refused "a schema that nothing satisfies" 1 'no finite text' -j '{"type":"integer","minimum":2,"maximum":1}'
refused "a rule that is not there" 1 'the rule "x" is used' --grammar 'root ::= x'
refused "an expression with an open group" 1 'regex, character 3' --regex '(a'
refused "a file that is not there" 1 "$W/none: cannot open" --grammar-file "$W/none"
refused "a schema's file that is not there" 1 "$W/none: cannot open" -jf "$W/none"
refused "two forms" 2 'an answer has one form' --regex a -j '{}'
plan
