/* peer_quantize: writes a GGUF file in another type with llama.cpp's own quantiser. interchange.sh calls it.
 *
 * usage: peer_quantize LIBLLAMA IN OUT FTYPE     FTYPE: a number of llama.h's enum llama_ftype
 *
 * The library is opened when it runs, for the project neither builds nor ships it. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* As llama_model_quantize_params begins. The rest is as the library fills it, of a size that only the library knows. */
struct params {
    int32_t n_threads, ftype;
    char rest[1016];
};

/* A function of the library, stored where `to` points: C has no cast from a pointer to an object. */
static int find(void *library, const char *name, void *to)
{
    *(void **)to = dlsym(library, name);
    if (!*(void **)to) fprintf(stderr, "peer_quantize: %s\n", dlerror());
    return *(void **)to ? 0 : -1;
}

int main(int argc, char **argv)
{
    void (*init)(void);
    struct params (*defaults)(void);
    uint32_t (*quantize)(const char *in, const char *out, const struct params *p);
    if (argc != 5) {
        fprintf(stderr, "usage: peer_quantize LIBLLAMA IN OUT FTYPE\n");
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "peer_quantize: %s\n", dlerror());
        return 1;
    }
    if (find(library, "llama_backend_init", &init) < 0 || find(library, "llama_model_quantize_default_params", &defaults) < 0 ||
        find(library, "llama_model_quantize", &quantize) < 0)
        return 1;
    init();
    struct params p = defaults();
    p.n_threads = 2;
    p.ftype = (int32_t)strtol(argv[4], NULL, 10);
    return quantize(argv[2], argv[3], &p) == 0 ? 0 : 1;
}
