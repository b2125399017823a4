/* The C interface, used as its header says. Compiled as C and as C++; `main FOLDER`. */

#include "check.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

int checks;
int failures;

static const char *folder;

const char *path_of(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

valve_engine *open_engine(uint32_t sessions)
{
    valve_engine *engine = NULL;
    valve_options options;
    CHECK(valve_options_init(&options, sizeof options) == VALVE_OK);
    options.threads = 2;
    options.sessions = sessions;
    CHECK(valve_open(path_of("model.gguf"), &options, &engine) == VALVE_OK);
    return engine;
}

valve_session *open_session(valve_engine *engine)
{
    valve_session *session = NULL;
    CHECK(valve_session_open(engine, &session) == VALVE_OK);
    return session;
}

static valve_sampling greedy(void)
{
    valve_sampling sampling;
    CHECK(valve_sampling_init(&sampling, sizeof sampling) == VALVE_OK);
    sampling.temperature = 0;
    return sampling;
}

size_t answer(valve_session *session, const char *text, size_t limit, uint32_t *tokens)
{
    valve_sampling sampling = greedy();
    uint32_t stop = VALVE_STOP_NONE;
    size_t count = 0;
    CHECK(valve_prompt_text(session, text, NULL) == VALVE_OK);
    CHECK(valve_generate(session, &sampling, limit) == VALVE_OK);
    while (stop == VALVE_STOP_NONE && valve_next(session, &tokens[count], NULL, NULL, &stop) == VALVE_OK)
        count++;
    CHECK(stop != VALVE_STOP_NONE);
    return count;
}

static void check_texts(valve_engine *engine)
{
    valve_session *session = open_session(engine);
    valve_sampling sampling = greedy();
    valve_message messages[2] = {{"system", "Be brief."}, {"user", "and the thing"}};
    uint32_t prompt[256], timeline[512], token, stop = VALVE_STOP_NONE;
    size_t prompted = 0, count = 0, drawn = 0, kept = 9, bytes = 0, all = 0;
    const char *text = NULL;
    const char *rendered = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nand the thing<|im_end|>\n"
                           "<|im_start|>assistant\n";
    CHECK(valve_tokenize(engine, rendered, 1, prompt, 256, &prompted) == VALVE_OK);
    CHECK(prompted > 10 && prompted < 256);
    CHECK(valve_tokenize(engine, rendered, 0, NULL, 0, &count) == VALVE_OK);
    CHECK(count > prompted);
    CHECK(valve_prompt_chat(session, messages, 2, &kept) == VALVE_OK);
    CHECK(kept == 0);
    CHECK(valve_generate(session, &sampling, 12) == VALVE_OK);
    for (; stop == VALVE_STOP_NONE; drawn++) {
        CHECK(valve_next(session, &token, &text, &bytes, &stop) == VALVE_OK);
        CHECK(text != NULL && text[bytes] == 0);
        all += bytes;
        CHECK(valve_tokens(session, timeline, 512, &count) == VALVE_OK);
        CHECK(count == prompted + drawn + 1 && timeline[count - 1] == token);
    }
    CHECK(memcmp(prompt, timeline, prompted * sizeof *prompt) == 0);
    CHECK(stop == VALVE_STOP_END || (stop == VALVE_STOP_LIMIT && drawn == 12));
    CHECK(all > 0);
    CHECK_FAILS(valve_next(session, NULL, NULL, NULL, NULL), VALVE_ERROR_STATE, "valve_generate");
    /* The same conversation again finds all but its last token, whose logits are wanted. */
    CHECK(valve_prompt_tokens(session, prompt, prompted, &kept) == VALVE_OK);
    CHECK(kept == prompted - 1);
    CHECK(valve_session_close(session) == VALVE_OK);
}

/* The text of an answer stops before the first of two texts; without them it goes on. */
static void check_stops(valve_engine *engine)
{
    valve_session *session = open_session(engine);
    valve_sampling sampling = greedy();
    char all[4096] = "", cut[4096] = "", last[2] = "";
    const char *stops[2] = {"no such text", last}, *text = NULL;
    uint32_t stop;
    int round;
    for (round = 0; round < 2; round++) {
        CHECK(valve_prompt_text(session, "and the thing", NULL) == VALVE_OK);
        CHECK(valve_generate(session, &sampling, 30) == VALVE_OK);
        for (stop = VALVE_STOP_NONE; stop == VALVE_STOP_NONE;) {
            CHECK(valve_next(session, NULL, &text, NULL, &stop) == VALVE_OK);
            strcat(round ? cut : all, text);
        }
        /* The first letter that is ASCII, somewhere behind the start. */
        for (text = all + 4; round == 0 && *text != 0 && last[0] == 0; text++)
            if (*text > ' ' && *text < 127)
                last[0] = *text;
        sampling.stop = stops;
        sampling.stop_count = 2;
    }
    CHECK(last[0] != 0 && stop == VALVE_STOP_TEXT);
    CHECK(strchr(cut, last[0]) == NULL && strncmp(all, cut, strlen(cut)) == 0 && all[strlen(cut)] == last[0]);
    CHECK(valve_session_close(session) == VALVE_OK);
}

static void check_limits(valve_engine *engine)
{
    valve_session *session = open_session(engine);
    valve_sampling sampling = greedy();
    uint32_t tokens[512], stop;
    size_t count = 0, ends = 0;
    CHECK(answer(session, "in the", 1, tokens) == 1);
    /* Without a limit the context is one; a model that ends before is asked to go on. */
    CHECK(valve_prompt_text(session, "in the", NULL) == VALVE_OK);
    for (stop = VALVE_STOP_NONE; stop != VALVE_STOP_LIMIT && ends < 256; ends++) {
        CHECK(valve_generate(session, &sampling, 0) == VALVE_OK);
        do
            CHECK(valve_next(session, NULL, NULL, NULL, &stop) == VALVE_OK);
        while (stop == VALVE_STOP_NONE && failures == 0);
        CHECK(valve_tokens(session, tokens, 512, &count) == VALVE_OK);
    }
    CHECK(stop == VALVE_STOP_LIMIT && count == 256);
    CHECK(valve_session_close(session) == VALVE_OK);
}

static void check_valve(valve_engine *engine)
{
    valve_session *session = open_session(engine);
    uint32_t base[40], turned[40], closed[40], valve = 9;
    float openings[256];
    size_t n, m, count = 0, at;
    n = answer(session, "and the thing", 40, base);
    CHECK(valve_attach(engine, path_of("adapter.gguf"), &valve) == VALVE_OK);
    CHECK(valve == 0);
    CHECK(valve_set_alpha(session, valve, 2.5f, VALVE_SCOPE_GENERATION) == VALVE_OK);
    m = answer(session, "and the thing", 40, turned);
    CHECK(n != m || memcmp(base, turned, n * sizeof *base) != 0);
    CHECK(valve_openings(session, valve, NULL, 0, &count) == VALVE_OK);
    CHECK(count > m && count < 256);
    CHECK(valve_openings(session, valve, openings, 256, &count) == VALVE_OK);
    for (at = 0; at < count; at++)
        CHECK(openings[at] == (at + m > count ? 2.5f : 0.0f));
    CHECK(valve_set_alpha(session, valve, 0, VALVE_SCOPE_ALL) == VALVE_OK);
    m = answer(session, "and the thing", 40, closed);
    CHECK(m == n && memcmp(base, closed, n * sizeof *base) == 0);
    /* In mid-answer. */
    CHECK(valve_prompt_text(session, "and the thing", NULL) == VALVE_OK);
    CHECK(valve_generate(session, NULL, 40) == VALVE_OK);
    CHECK(valve_next(session, NULL, NULL, NULL, NULL) == VALVE_OK);
    CHECK(valve_set_alpha(session, valve, -1, VALVE_SCOPE_ALL) == VALVE_OK);
    CHECK(valve_next(session, NULL, NULL, NULL, NULL) == VALVE_OK);
    CHECK(valve_openings(session, valve, openings, 256, &count) == VALVE_OK);
    CHECK(count > 2 && openings[count - 1] == -1 && openings[count - 2] == 0);
    CHECK(valve_set_dial(session, valve, "0=0.25,2=0.5", VALVE_SCOPE_ALL) == VALVE_OK);
    CHECK(valve_prompt_text(session, "and the thing", NULL) == VALVE_OK);
    CHECK(valve_generate(session, NULL, 1) == VALVE_OK);
    CHECK(valve_next(session, NULL, NULL, NULL, NULL) == VALVE_OK);
    CHECK(valve_openings(session, valve, openings, 256, &count) == VALVE_OK);
    CHECK(count > 2 && openings[1] == 0.25f && openings[2] == 0.5f);
    CHECK(valve_session_close(session) == VALVE_OK);
}

/* Opens and closes everything, in the order that is harder. */
static void open_and_close(void)
{
    valve_engine *engine = open_engine(1);
    valve_session *session = open_session(engine), *idle = open_session(engine);
    uint32_t tokens[8];
    CHECK(valve_attach(engine, path_of("adapter.gguf"), NULL) == VALVE_OK);
    CHECK(valve_close(engine) == VALVE_OK);
    CHECK(answer(session, "a thing", 8, tokens) > 0);
    CHECK(valve_generate(session, NULL, 8) == VALVE_OK || valve_prompt_text(session, "a", NULL) == VALVE_OK);
    CHECK(valve_session_close(session) == VALVE_OK);
    CHECK(valve_session_close(idle) == VALVE_OK);
}

/* What is closed gives its memory back: a sanitizer does not see what a table of handles still holds. */
static void check_memory(void)
{
    int round;
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
    size_t before = 0, after;
    for (round = 0; round < 30; round++) {
        struct mallinfo2 info;
        open_and_close();
        info = mallinfo2();
        after = info.uordblks + info.hblkhd;
        if (round == 9)
            before = after;
    }
    CHECK(after < before + 20 * 1024);
#else
    for (round = 0; round < 3; round++)
        open_and_close();
#endif
}

int main(int argc, char **argv)
{
    valve_engine *engine;
    if (argc != 2) {
        puts("usage: main FOLDER");
        return 2;
    }
    folder = argv[1];
    CHECK(valve_last_error(NULL)[0] == 0);
    CHECK(valve_version()[0] >= '0' && valve_version()[0] <= '9');
    engine = open_engine(2);
    check_texts(engine);
    check_stops(engine);
    check_limits(engine);
    check_valve(engine);
    CHECK(valve_close(engine) == VALVE_OK);
    check_misuse();
    check_threads();
    check_memory();
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
