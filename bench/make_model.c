/* make_model: writes a model of a real shape with random weights, for measuring speed without a download.
 *
 * usage: make_model SHAPE TYPE OUT.gguf      without arguments: the shapes that there are */
#include <stdio.h>

#include "quern.h"

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: make_model SHAPE TYPE OUT.gguf\nshapes:");
        for (size_t i = 0; quern_shape(i); i++) fprintf(stderr, " %s", quern_shape(i));
        fprintf(stderr, "\n");
        return 2;
    }
    quern_error err;
    const quern_convert_options options = {.type = argv[2]};
    if (quern_synthesize(argv[1], argv[3], &options, &err) == 0) return 0;
    fprintf(stderr, "make_model: %s\n", err.message);
    return 1;
}
