// The harness: checks every kernel, then times them where there is a GPU. See ../README.md.
//
//   harness check            correctness alone
//   harness small            the same without the largest shapes; the one thing the emulated build does
//   harness time [--out F]   correctness, then timings, as a table and as JSON in F
#include "check_attend_many.h"
#include "check_rope.h"
#ifndef CUDA_HOST_EMU
#include "time.h"
#endif

static int check_all(bool extra) {
    check_matvecs(extra);
    check_ropes();
    check_attends(extra);
    check_attend_manies(extra);
    return summary();
}

int main(int argc, char** argv) {
    std::string verb = argc > 1 ? argv[1] : "";
    if (verb == "small") return check_all(false);
#ifdef CUDA_HOST_EMU
    return fprintf(stderr, "usage: harness small; the rest needs a GPU\n"), 2;
#else
    if (verb != "check" && verb != "time") {
        return fprintf(stderr, "usage: harness small | check | time [--out FILE]\n"), 2;
    }
    print_device();
    if (int rc = check_all(true)) return rc;
    if (verb == "check") return 0;
    std::string out = argc > 3 && !strcmp(argv[2], "--out") ? argv[3] : "";
    return time_all(out);
#endif
}
