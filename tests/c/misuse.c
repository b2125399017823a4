/* What must not be done gives an error that says so. */

#include "check.h"

#include <math.h>

static void check_structures(void)
{
    valve_engine *engine = NULL;
    valve_options options;
    CHECK_FAILS(valve_options_init(NULL, sizeof options), VALVE_ERROR_ARGUMENT, "options: it is null");
    CHECK_FAILS(valve_options_init(&options, 8), VALVE_ERROR_ARGUMENT, "a size of 8 bytes");
    CHECK_FAILS(valve_sampling_init(NULL, sizeof(valve_sampling)), VALVE_ERROR_ARGUMENT, "sampling: it is null");
    CHECK(valve_options_init(&options, sizeof options) == VALVE_OK);
    CHECK(options.size == sizeof options && options.sessions == 1 && options.progress == NULL);
#define WITH(field, value, words)                                                                        \
    CHECK(valve_options_init(&options, sizeof options) == VALVE_OK);                                     \
    options.field = value;                                                                               \
    CHECK_FAILS(valve_open(path_of("model.gguf"), &options, &engine), VALVE_ERROR_ARGUMENT, words)
    WITH(size, 0, "a size of 0 bytes");
    WITH(size, (size_t)-1, "bytes");
    WITH(kv_type, 12345, "kv_type: there is no 12345");
    WITH(precision, 2, "precision: there is no 2");
    WITH(sessions, 0, "sessions: must be at least 1");
    WITH(batch, 0, "batch: must be at least 1");
    WITH(sessions, 0xffffffffu, "in 4294967295 sessions");
#undef WITH
    CHECK(engine == NULL);
}

/* A program built against a later header, which has one field more. */
static void check_growth(void)
{
    struct {
        valve_options known;
        uint64_t later;
    } grown;
    valve_engine *engine = NULL;
    CHECK(valve_options_init(&grown.known, sizeof grown) == VALVE_OK);
    CHECK(grown.known.size == sizeof grown && grown.later == 0);
    grown.later = 1;
    CHECK_FAILS(valve_open(path_of("model.gguf"), &grown.known, &engine), VALVE_ERROR_ARGUMENT, "more than this");
    grown.later = 0;
    grown.known.context = 64;
    CHECK(valve_open(path_of("model.gguf"), &grown.known, &engine) == VALVE_OK);
    CHECK(valve_close(engine) == VALVE_OK);
}

static void check_files(valve_engine *engine)
{
    valve_engine *none = engine;
    CHECK_FAILS(valve_open(NULL, NULL, &none), VALVE_ERROR_ARGUMENT, "model: it is null");
    CHECK(none == NULL);
    CHECK_FAILS(valve_open(path_of("model.gguf"), NULL, NULL), VALVE_ERROR_ARGUMENT, "engine: it is null");
    CHECK_FAILS(valve_open(path_of("none.gguf"), NULL, &none), VALVE_ERROR_IO, "none.gguf");
    CHECK_FAILS(valve_open(path_of("cut.gguf"), NULL, &none), VALVE_ERROR_MALFORMED, "cut.gguf");
    CHECK_FAILS(valve_open(path_of("noise.gguf"), NULL, &none), VALVE_ERROR_MALFORMED, "noise.gguf");
    CHECK_FAILS(valve_open(path_of("mamba.gguf"), NULL, &none), VALVE_ERROR_UNSUPPORTED, "architecture");
    CHECK_FAILS(valve_open(path_of(""), NULL, &none), VALVE_ERROR_MALFORMED, "not a regular file");
    CHECK_FAILS(valve_attach(engine, NULL, NULL), VALVE_ERROR_ARGUMENT, "adapter: it is null");
    CHECK_FAILS(valve_attach(engine, path_of("none.gguf"), NULL), VALVE_ERROR_IO, "none.gguf");
    CHECK_FAILS(valve_attach(engine, path_of("noise.gguf"), NULL), VALVE_ERROR_MALFORMED, "noise.gguf");
    CHECK_FAILS(valve_attach(engine, path_of("model.gguf"), NULL), VALVE_ERROR_ADAPTER, "model.gguf");
}

static void check_handles(valve_engine *engine, valve_session *session)
{
    valve_engine *closed = open_engine(1);
    valve_session *closed_session = open_session(closed), *none = session;
    CHECK(valve_session_close(closed_session) == VALVE_OK);
    CHECK(valve_close(closed) == VALVE_OK);
    CHECK_FAILS(valve_close(closed), VALVE_ERROR_HANDLE, "engine: it is not open");
    CHECK_FAILS(valve_close(NULL), VALVE_ERROR_ARGUMENT, "engine: it is null");
    CHECK_FAILS(valve_close((valve_engine *)session), VALVE_ERROR_HANDLE, "engine: it is not open");
    CHECK_FAILS(valve_session_close((valve_session *)engine), VALVE_ERROR_HANDLE, "session: it is not open");
    CHECK_FAILS(valve_session_open(closed, &none), VALVE_ERROR_HANDLE, "engine");
    CHECK(none == NULL);
    CHECK_FAILS(valve_session_open(engine, NULL), VALVE_ERROR_ARGUMENT, "session: it is null");
    CHECK_FAILS(valve_attach(closed, path_of("adapter.gguf"), NULL), VALVE_ERROR_HANDLE, "engine");
    CHECK_FAILS(valve_tokenize(closed, "a", 0, NULL, 0, NULL), VALVE_ERROR_HANDLE, "engine");
    CHECK_FAILS(valve_session_close(closed_session), VALVE_ERROR_HANDLE, "session: it is not open");
    CHECK_FAILS(valve_session_close(NULL), VALVE_ERROR_ARGUMENT, "session: it is null");
    CHECK_FAILS(valve_set_alpha(closed_session, 0, 0, 0), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_set_dial(closed_session, 0, "0", 0), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_prompt_chat(closed_session, NULL, 0, NULL), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_prompt_text(closed_session, "a", NULL), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_prompt_tokens(closed_session, NULL, 0, NULL), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_generate(closed_session, NULL, 0), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_next(closed_session, NULL, NULL, NULL, NULL), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_cancel(closed_session), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_cancel(NULL), VALVE_ERROR_ARGUMENT, "session: it is null");
    CHECK_FAILS(valve_tokens(closed_session, NULL, 0, NULL), VALVE_ERROR_HANDLE, "session");
    CHECK_FAILS(valve_openings(closed_session, 0, NULL, 0, NULL), VALVE_ERROR_HANDLE, "session");
}

static void check_prompts(valve_engine *engine, valve_session *session)
{
    uint32_t tokens[300] = {5, 1u << 30}, before[8], after[8];
    size_t n = 0, m = 0;
    valve_message nobody = {NULL, "a"}, mute = {"user", NULL}, torn = {"user", "\xff"};
    CHECK_FAILS(valve_generate(session, NULL, 0), VALVE_ERROR_ARGUMENT, "prompt");
    CHECK(valve_prompt_text(session, "the", NULL) == VALVE_OK);
    CHECK(valve_tokens(session, before, 8, &n) == VALVE_OK);
    CHECK_FAILS(valve_prompt_text(session, NULL, NULL), VALVE_ERROR_ARGUMENT, "text: it is null");
    CHECK_FAILS(valve_prompt_text(session, "\xc3", NULL), VALVE_ERROR_ARGUMENT, "text: it is not UTF-8");
    CHECK_FAILS(valve_prompt_text(session, "", NULL), VALVE_ERROR_ARGUMENT, "no tokens");
    CHECK_FAILS(valve_prompt_tokens(session, NULL, 2, NULL), VALVE_ERROR_ARGUMENT, "tokens: it is null");
    CHECK_FAILS(valve_prompt_tokens(session, tokens, 0, NULL), VALVE_ERROR_ARGUMENT, "no tokens");
    CHECK_FAILS(valve_prompt_tokens(session, tokens, 2, NULL), VALVE_ERROR_ARGUMENT, "not in the vocabulary");
    CHECK_FAILS(valve_prompt_tokens(session, tokens, (size_t)-1, NULL), VALVE_ERROR_ARGUMENT, "tokens");
    tokens[1] = 5;
    CHECK_FAILS(valve_prompt_tokens(session, tokens, 300, NULL), VALVE_ERROR_CONTEXT_FULL, "256 fit");
    CHECK_FAILS(valve_prompt_chat(session, NULL, 1, NULL), VALVE_ERROR_ARGUMENT, "messages: it is null");
    CHECK_FAILS(valve_prompt_chat(session, &nobody, 1, NULL), VALVE_ERROR_ARGUMENT, "role: it is null");
    CHECK_FAILS(valve_prompt_chat(session, &mute, 1, NULL), VALVE_ERROR_ARGUMENT, "content: it is null");
    CHECK_FAILS(valve_prompt_chat(session, &torn, 1, NULL), VALVE_ERROR_ARGUMENT, "content: it is not UTF-8");
    CHECK_FAILS(valve_tokenize(engine, NULL, 0, NULL, 0, NULL), VALVE_ERROR_ARGUMENT, "text: it is null");
    CHECK_FAILS(valve_tokenize(engine, "a", 0, NULL, 3, NULL), VALVE_ERROR_ARGUMENT, "nowhere to write");
    CHECK(valve_tokens(session, after, 8, &m) == VALVE_OK);
    CHECK(n > 0 && n < 8 && n == m && memcmp(before, after, n * sizeof *before) == 0);
}

static void check_drawing(valve_engine *engine, valve_session *session)
{
    const float bad[3] = {(float)NAN, (float)INFINITY, (float)-INFINITY};
    valve_sampling sampling;
    int i;
    CHECK_FAILS(valve_set_alpha(session, 0, 1, VALVE_SCOPE_ALL), VALVE_ERROR_ARGUMENT, "valve: 0 of 0 attached");
    CHECK(valve_attach(engine, path_of("adapter.gguf"), NULL) == VALVE_OK);
    for (i = 0; i < 3; i++)
        CHECK_FAILS(valve_set_alpha(session, 0, bad[i], VALVE_SCOPE_ALL), VALVE_ERROR_ARGUMENT, "alpha: ");
    CHECK_FAILS(valve_set_alpha(session, 1, 1, VALVE_SCOPE_ALL), VALVE_ERROR_ARGUMENT, "valve: 1 of 1 attached");
    CHECK_FAILS(valve_set_alpha(session, 0, 1, 99), VALVE_ERROR_ARGUMENT, "scope: there is no 99");
    CHECK_FAILS(valve_set_dial(session, 0, NULL, 0), VALVE_ERROR_ARGUMENT, "dial: it is null");
    CHECK_FAILS(valve_set_dial(session, 0, "0..inf@9", 0), VALVE_ERROR_ARGUMENT, "alpha: ");
    CHECK_FAILS(valve_set_dial(session, 0, "", 0), VALVE_ERROR_ARGUMENT, "alpha: ");
    CHECK_FAILS(valve_openings(session, 7, NULL, 0, NULL), VALVE_ERROR_ARGUMENT, "valve: 7 of 1 attached");
    CHECK_FAILS(valve_openings(session, 0, NULL, 4, NULL), VALVE_ERROR_ARGUMENT, "nowhere to write");
    CHECK_FAILS(valve_next(session, NULL, NULL, NULL, NULL), VALVE_ERROR_STATE, "no generation runs");
#define WITH(field, value, words)                                                          \
    CHECK(valve_sampling_init(&sampling, sizeof sampling) == VALVE_OK);                    \
    sampling.field = value;                                                                \
    CHECK_FAILS(valve_generate(session, &sampling, 4), VALVE_ERROR_ARGUMENT, words)
    WITH(size, 7, "a size of 7 bytes");
    WITH(temperature, -1, "temperature: ");
    WITH(temperature, bad[0], "temperature: ");
    WITH(top_p, 1.5f, "top_p: ");
    WITH(min_p, bad[1], "min_p: ");
    WITH(repeat_penalty, 0, "repeat_penalty: ");
    WITH(stop_count, 1, "stop: it is null");
    WITH(json_schema, "\xff", "json_schema: it is not UTF-8");
#undef WITH
    /* A prompt in mid-answer ends it. */
    CHECK(valve_generate(session, NULL, 4) == VALVE_OK);
    CHECK(valve_next(session, NULL, NULL, NULL, NULL) == VALVE_OK);
    CHECK(valve_prompt_text(session, "the", NULL) == VALVE_OK);
    CHECK_FAILS(valve_next(session, NULL, NULL, NULL, NULL), VALVE_ERROR_STATE, "no generation runs");
}

void check_misuse(void)
{
    valve_engine *engine = open_engine(1);
    valve_session *session = open_session(engine);
    check_structures();
    check_growth();
    check_files(engine);
    check_handles(engine, session);
    check_prompts(engine, session);
    check_drawing(engine, session);
    CHECK(valve_session_close(session) == VALVE_OK);
    CHECK(valve_close(engine) == VALVE_OK);
}
