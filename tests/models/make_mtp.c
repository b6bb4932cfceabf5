/* make_mtp: the folder of a tiny model with a head for multi-token prediction, for tests.
 *
 * usage: make_mtp NAME OUT     OUT is a folder that is there; NAME: one of tiny_mtps[] */
#include "../unit/tiny_mtp.h"

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 3 && i < COUNT_OF(tiny_mtps); i++) {
        if (strcmp(argv[1], tiny_mtps[i].name) != 0) continue;
        tiny_mtp_write(&tiny_mtps[i], argv[2]);
        return 0;
    }
    fprintf(stderr, "usage: make_mtp NAME OUT\n");
    return 2;
}
