/* schema_int.h: what the files that read JSON Schemas share. */
#ifndef QUERN_SCHEMA_INT_H
#define QUERN_SCHEMA_INT_H

#include "grammar/grammar_int.h"

/* A schema and where it is in the document, as a JSON pointer. done: keywords that were replaced by further schemas. by: 1 +
 * the place in the conjunction of the schema that brought it in; 0: none did. */
enum { DONE_REF = 1, DONE_ALL = 2, DONE_ANY = 4, DONE_ONE = 8 };
struct sub {
    const struct json *j;
    const char *path;
    uint32_t done, by;
};

/* Schemas that a value must satisfy all together. */
#define CONJ_MAX 64
struct conj {
    struct sub v[CONJ_MAX];
    size_t n;
};

struct todo;
struct schema {
    struct build *b;
    struct json_parts parts;
    const struct json *root;
    struct arena arena;
    struct names rules;   /* of conjunctions, by their pointers */
    struct names checked; /* targets of references */
    struct todo *todo, **todo_end;
};

/* Fails with "PATH/KEYWORD: text". */
void schema_wrong(struct schema *s, int code, struct sub sub, const char *keyword, const char *text);
/* PATH/a/b in the arena; "" after a failure. */
const char *schema_path(struct schema *s, const char *path, const char *keyword, struct str name);

/* schema_check.c: every keyword is known and its value has the right form, here and in all schemas inside. */
void schema_check(struct schema *s, struct sub sub);

/* gram_schema.c: the rule of a conjunction. It is filled later. */
uint32_t schema_rule(struct schema *s, const struct conj *c);
/* The schema that a "$ref" means, itself checked. */
bool schema_resolve(struct schema *s, struct sub sub, struct sub *out);

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
/* Whether no value of these types satisfies both, as far as can be told. */
bool schema_disjoint(struct schema *s, struct sub a, struct sub b, unsigned types, unsigned depth);
/* Append the values of a type to at; the conjunction is flat. */
uint32_t schema_put_values(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_number(struct schema *s, uint32_t at, const struct conj *c, bool real);
uint32_t schema_put_string(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_array(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_object(struct schema *s, uint32_t at, const struct conj *c);
/* The largest "minLength" or smallest "maxLength" of all; dflt without. */
uint32_t schema_count(const struct conj *c, const char *keyword, bool largest, uint32_t dflt);

#endif
