// The harness: checks every kernel, then times them where there is a GPU. See ../README.md.
//
//   harness check            correctness alone
//   harness small            the same without the largest shapes; the one thing the emulated build does
//   harness time [--out F]   correctness, then timings, as a table and as JSON in F
#include "check_attend_many.h"
#include "check_likeliest.h"
#include "check_matmul.h"
#include "check_matmul_types.h"
#include "check_rope.h"
#include "check_rows.h"
#ifndef CUDA_HOST_EMU
#include "time_attend.h"
#include "time_matmul.h"

static int time_all(const std::string& out) {
    Gpu gpu;
    Scratch scratch;
    Report report{gpu, {}};
    measure_copy(gpu);
    Report::header();
    time_matvecs(gpu, scratch, report);
    time_consumers(gpu, scratch, report);
    time_matmuls(gpu, report);
    time_attentions(gpu, report);
    for (bool early : {false, true}) {
        programmatic = early;
        for (WeightType type : {TYPE_Q4_0, TYPE_Q8_0}) time_ffns(gpu, scratch, report, type);
    }
    CUDA(cudaDeviceSynchronize());
    if (!out.empty()) report.write(out);
    return 0;
}
#endif

static int check_all(bool extra) {
    check_matvecs(extra);
    check_matmuls(extra);
    check_matmul_types(extra);
    check_rows();
    check_ropes();
    check_attends(extra);
    check_attend_manies(extra);
    check_likeliests(extra);
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
