/* schema_int.h: what the files that read JSON Schemas share. */
#ifndef QUERN_SCHEMA_INT_H
#define QUERN_SCHEMA_INT_H

#include "grammar/grammar_int.h"

/* A schema and where it is in the document, as a JSON pointer. base: the schema around it that has an "$id", or the whole one:
 * what references begin at. done: keywords that were replaced by further schemas. by: 1 + the place in the conjunction of the
 * schema that brought it in; 0: none did. */
enum { DONE_REF = 1, DONE_ALL = 2, DONE_ANY = 4, DONE_ONE = 8 };
struct sub {
    const struct json *j, *base;
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
    struct arena arena;
    struct names rules;   /* of conjunctions, by their pointers */
    struct names checked; /* targets of references */
    struct names shared;  /* rules of values, by what is said of them */
    struct todo *todo, **todo_end;
};

/* Fails with "PATH/KEYWORD: text". */
void schema_wrong(struct schema *s, int code, struct sub sub, const char *keyword, const char *text);
/* The schema j at outer/keyword/name, name.p NULL: at outer/keyword; and the one that is element i of the list there. */
struct sub schema_inside(struct schema *s, struct sub outer, const char *keyword, struct str name, const struct json *j);
struct sub schema_element(struct schema *s, struct sub outer, const char *keyword, const struct json *list, size_t i);

/* schema_check.c: every keyword is known and its value has the right form, here and in all schemas inside. */
void schema_check(struct schema *s, struct sub sub);

/* gram_schema.c: adds a schema to a conjunction. */
void schema_conj_add(struct schema *s, struct conj *c, struct sub sub);
/* The rule of a conjunction. It is filled later. */
uint32_t schema_rule(struct schema *s, const struct conj *c);
/* The rule of values of which key says everything; not found: it is new, and the caller's to fill. key NULL: out of memory. */
uint32_t schema_shared_rule(struct schema *s, const struct buf *key, bool *found);
/* Brings in what "$ref" and "allOf" say. */
void schema_flatten(struct schema *s, struct conj *c);
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
/* What a schema's "format" is of; 0: without one, or one that says nothing. */
unsigned schema_format_types(const struct json *schema);
/* Whether a schema's keywords for strings and numbers allow a value. */
bool schema_admits_string(struct schema *s, struct sub sub, struct str text);
bool schema_admits_number(const struct json *schema, double v);
/* Appends what a "pattern" at path takes. */
uint32_t schema_put_regex(struct build *b, uint32_t at, const char *path, struct str regex);
/* Adds what the conjunction says of texts to l. */
void schema_add_conditions(struct schema *s, struct lang *l, const struct conj *c);
/* Append the values of a type to at; the conjunction is flat. */
uint32_t schema_put_values(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_number(struct schema *s, uint32_t at, const struct conj *c, bool real);
uint32_t schema_put_string(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_array(struct schema *s, uint32_t at, const struct conj *c);
uint32_t schema_put_object(struct schema *s, uint32_t at, const struct conj *c);
/* The largest "minLength" or smallest "maxLength" of all; dflt without. */
uint32_t schema_count(const struct conj *c, const char *keyword, bool largest, uint32_t dflt);

#endif
