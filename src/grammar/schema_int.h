/* schema_int.h: what the files that read JSON Schemas share. */
#ifndef QUERN_SCHEMA_INT_H
#define QUERN_SCHEMA_INT_H

#include "grammar/grammar_int.h"

/* A schema and where it is in the document, as a JSON pointer. base: the schema around it that has an "$id", or the whole one:
 * what references begin at. done: keywords that were replaced by further schemas. by: 1 + the place in the conjunction of the
 * schema that brought it in; 0: none did. */
enum { DONE_REF = 1, DONE_ALL = 2, DONE_ANY = 4, DONE_ONE = 8, DONE_LOGIC = 16 };
struct sub {
    const struct json *j, *base;
    const char *path;
    uint32_t done, by;
};

/* Schemas that a value must satisfy all together. */
#define CONJ_MAX 160
struct conj {
    struct sub v[CONJ_MAX];
    size_t n;
};

#define SCHEMA_WORK 200000 /* schemas looked at for alternatives: less than 0.1 s */

struct todo;
struct schema {
    struct build *b;
    struct json_parts parts;
    struct arena arena;
    struct names rules;      /* of conjunctions, by their pointers */
    struct names checked;    /* schemas that schema_check has seen */
    bool only_form;          /* of schema_check: what it looks at holds nowhere yet */
    struct names shared;     /* rules of values, by what is said of them */
    struct names made_names; /* of schema_logic.c */
    const struct json **made;
    uint32_t n_made, cap_made;
    const struct json *root;
    /* Of schema_refs.c: parts that have names. */
    struct names part_names;
    const struct json **parts_named;
    uint32_t n_parts, cap_parts;
    bool named; /* they were looked for */
    /* Of schema_disjoint: what the two schemas are among, or NULL; how many pairs it looked at. */
    const struct conj *around;
    uint32_t looks;
    size_t spent; /* of SCHEMA_WORK */
    struct todo *todo, **todo_end;
};

/* Fails with "PATH/KEYWORD: text". */
void schema_wrong(struct schema *s, int code, struct sub sub, const char *keyword, const char *text);
/* The schema j at outer/keyword/name, name.p NULL: at outer/keyword; and the one that is element i of the list there. */
struct sub schema_inside(struct schema *s, struct sub outer, const char *keyword, struct str name, const struct json *j);
struct sub schema_element(struct schema *s, struct sub outer, const char *keyword, const struct json *list, size_t i);

/* schema_refs.c: the schema is a base of references. */
bool schema_has_id(const struct json *j);
/* The schema that a "$ref" means, itself checked. */
bool schema_resolve(struct schema *s, struct sub sub, struct sub *out);

/* schema_check.c: all keywords have values of the right form, here and in all schemas inside, and can be honoured, but for
 * definitions. */
void schema_check(struct schema *s, struct sub sub);

/* schema_logic.c. What it makes has keywords that no text can have: an array of values that are excluded, and a pattern that
 * is, beside "type": "string". */
#define SCHEMA_NO_VALUES "\xFFno values"
#define SCHEMA_NO_PATTERN "\xFFno pattern"
#define SCHEMA_PARTIAL "\xFFpartial"   /* in an opposite: it has not all that could be */
#define SCHEMA_OPPOSITE "\xFFopposite" /* beside an "allOf" of opposites */
/* A schema that holds only for values that sub does not hold for; NULL: none can be told, or a failure. */
const struct json *schema_opposite(struct schema *s, struct sub sub);
/* An object that has a member of this name; NULL: a failure. */
const struct json *schema_requiring(struct schema *s, struct str name);
/* Adds to c what "not", "if" and dependencies of its schema `at` say. */
void schema_bring_logic(struct schema *s, struct conj *c, size_t at);

/* gram_schema.c: adds a schema to a conjunction. */
void schema_conj_add(struct schema *s, struct conj *c, struct sub sub);
/* Adds what the schema at place `by` brings in, unless it is there already. */
void schema_conj_bring(struct schema *s, struct conj *c, struct sub sub, size_t by);
/* Counts work; fails where it is too much. */
void schema_spend(struct schema *s, size_t work);
/* The types that a conjunction allows; *open: it says nothing at all. */
unsigned schema_types_of(const struct conj *c, bool *open);
/* schema_choices.c: fills r with the alternatives of c; false where it has none. */
bool schema_put_choices(struct schema *s, struct rule r, const struct conj *c);
/* The rule of a conjunction. It is filled later. */
uint32_t schema_rule(struct schema *s, const struct conj *c);
/* The rule of values of which key says everything; not found: it is new, and the caller's to fill. key NULL: out of memory. */
uint32_t schema_shared_rule(struct schema *s, const struct buf *key, bool *found);
/* Brings in what "$ref" and "allOf" say. */
void schema_flatten(struct schema *s, struct conj *c);

/* schema_values.c. Types as bits; a number may be an integer. */
enum {
    TYPE_NULL = 1,
    TYPE_BOOL = 2,
    TYPE_INTEGER = 4,
    TYPE_REAL = 8,
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_ALL = 127,
};
unsigned schema_types(const struct json *schema); /* of its "type"; all without */
unsigned schema_type_of(const struct json *value);
bool schema_type_name(struct str name, unsigned *bits);
bool json_equal(const struct json *a, const struct json *b);
/* What "const" or "enum" says: n values; false where there is neither. */
bool schema_values(const struct json *schema, const struct json **v, size_t *n);
/* Whether a conjunction excludes a value (SCHEMA_NO_VALUES), and whether it excludes any of these types. */
bool schema_excludes(const struct conj *c, const struct json *value);
bool schema_excludes_types(const struct conj *c, unsigned types);
/* The schema has no place for a property. */
bool schema_forbids(const struct json *schema, struct str name);
/* Whether no value of these types satisfies both, as far as can be told. */
bool schema_disjoint(struct schema *s, struct sub a, struct sub b, unsigned types, unsigned depth);
/* What a schema's "format" is of; 0: without one, or one that says nothing. */
unsigned schema_format_types(const struct json *schema);
/* Whether a schema's keywords for strings and numbers allow a value. */
bool schema_admits_string(struct schema *s, struct sub sub, struct str text);
bool schema_admits_number(const struct json *schema, const struct json *v);
/* Appends what a "pattern" at path takes. */
uint32_t schema_put_regex(struct build *b, uint32_t at, const char *path, struct str regex);
/* Adds what the conjunction says of texts to l. */
void schema_add_conditions(struct schema *s, struct lang *l, const struct conj *c);
/* The listed values that a flat conjunction admits, in the arena. */
size_t schema_listed(struct schema *s, const struct conj *c, const struct json *const **out);
uint32_t schema_put_value(struct schema *s, uint32_t at, const struct json *v);

/* schema_arrays.c. Lines of states run along the members of an object or the items of an array: behind none of them, behind
 * one, .. up to `last`, which is the most that there may be, or stands for more, too. */
struct schema_lines {
    uint32_t *at;
    uint32_t last;
    bool more;
};
struct schema_lines schema_lines_new(struct schema *s, const struct schema_lines *like);
/* What rule says, with a comma before it where it is not the first, may come behind i others. */
void schema_lines_put(struct schema *s, const struct schema_lines *from, const struct schema_lines *to, uint32_t i,
                      uint32_t rule);

/* Append the values of a type to at; the conjunction is flat. */
uint32_t schema_put_values(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_number(struct schema *s, uint32_t at, const struct conj *c, bool real);
uint32_t schema_put_string(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_array(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_object(struct schema *s, uint32_t at, const struct conj *c);
/* The largest "minLength" or smallest "maxLength" of all; dflt without. */
uint32_t schema_count(const struct conj *c, const char *keyword, bool largest, uint32_t dflt);

#endif
