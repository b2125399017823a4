/* What the header says of threads, and of the callback. */

#include "check.h"

#include <pthread.h>

enum { DRAWN = 60, ROUNDS = 5 };

/* One thread's session and what it drew. */
struct job {
    valve_session *session;
    const char *text;
    uint32_t tokens[DRAWN];
    size_t count;
    int failures;
};

static void *run(void *argument)
{
    struct job *job = (struct job *)argument;
    valve_sampling sampling;
    uint32_t stop = VALVE_STOP_NONE;
    job->count = 0;
    job->failures = valve_sampling_init(&sampling, sizeof sampling) != VALVE_OK;
    sampling.seed = 7;
    job->failures += valve_prompt_text(job->session, job->text, NULL) != VALVE_OK;
    job->failures += valve_generate(job->session, &sampling, DRAWN) != VALVE_OK;
    while (stop == VALVE_STOP_NONE && job->failures == 0) {
        job->failures += valve_next(job->session, &job->tokens[job->count], NULL, NULL, &stop) != VALVE_OK;
        job->count++;
    }
    return NULL;
}

/* Two sessions at once draw what each draws alone. */
static void check_sessions(void)
{
    valve_engine *engine = open_engine(2);
    struct job alone[2], together[2];
    int round, i;
    memset(alone, 0, sizeof alone);
    alone[0].text = "and the thing";
    alone[1].text = "in the other";
    CHECK(valve_attach(engine, path_of("adapter.gguf"), NULL) == VALVE_OK);
    for (i = 0; i < 2; i++) {
        alone[i].session = open_session(engine);
        CHECK(valve_set_alpha(alone[i].session, 0, (float)i, VALVE_SCOPE_ALL) == VALVE_OK);
        run(&alone[i]);
        CHECK(alone[i].failures == 0 && alone[i].count > 0);
    }
    for (round = 0; round < ROUNDS; round++) {
        pthread_t threads[2];
        memcpy(together, alone, sizeof together);
        for (i = 0; i < 2; i++)
            CHECK(pthread_create(&threads[i], NULL, run, &together[i]) == 0);
        for (i = 0; i < 2; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        for (i = 0; i < 2; i++) {
            CHECK(together[i].failures == 0 && together[i].count == alone[i].count);
            CHECK(memcmp(together[i].tokens, alone[i].tokens, alone[i].count * sizeof(uint32_t)) == 0);
        }
    }
    for (i = 0; i < 2; i++)
        CHECK(valve_session_close(alone[i].session) == VALVE_OK);
    CHECK(valve_close(engine) == VALVE_OK);
}

/* Cancels until the session is closed. */
static void *cancel(void *session)
{
    valve_status status;
    do
        status = valve_cancel((valve_session *)session);
    while (status == VALVE_OK);
    return status == VALVE_ERROR_HANDLE ? NULL : session;
}

static void check_cancel(void)
{
    valve_engine *engine = open_engine(1);
    valve_session *session = open_session(engine);
    valve_status status = VALVE_OK;
    pthread_t thread;
    void *failed = NULL;
    uint32_t stop;
    int tries;
    CHECK(pthread_create(&thread, NULL, cancel, session) == 0);
    for (tries = 0; tries < 1000 && status == VALVE_OK; tries++) {
        CHECK(valve_prompt_text(session, "and the thing", NULL) == VALVE_OK);
        CHECK(valve_generate(session, NULL, 0) == VALVE_OK);
        for (stop = VALVE_STOP_NONE; stop == VALVE_STOP_NONE && status == VALVE_OK;)
            status = valve_next(session, NULL, NULL, NULL, &stop);
    }
    CHECK_FAILS(status, VALVE_ERROR_CANCELLED, "cancelled");
    CHECK_FAILS(valve_next(session, NULL, NULL, NULL, NULL), VALVE_ERROR_STATE, "no generation runs");
    CHECK(valve_session_close(session) == VALVE_OK);
    CHECK(pthread_join(thread, &failed) == 0);
    CHECK(failed == NULL);
    /* One that came too late does not end the next. */
    session = open_session(engine);
    CHECK(valve_cancel(session) == VALVE_OK);
    CHECK(valve_prompt_text(session, "and", NULL) == VALVE_OK);
    CHECK(valve_generate(session, NULL, 2) == VALVE_OK);
    CHECK(valve_next(session, NULL, NULL, NULL, NULL) == VALVE_OK);
    CHECK(valve_session_close(session) == VALVE_OK);
    CHECK(valve_close(engine) == VALVE_OK);
}

static void *fail(void *argument)
{
    valve_status before = VALVE_ERROR_OTHER, after = VALVE_OK;
    const char *words = valve_last_error(&before);
    int *right = (int *)argument;
    *right = before == VALVE_OK && words[0] == 0;
    *right &= valve_open("no such file", NULL, NULL) == VALVE_ERROR_ARGUMENT;
    words = valve_last_error(&after);
    *right &= after == VALVE_ERROR_ARGUMENT && strcmp(words, "engine: it is null") == 0;
    return NULL;
}

static void check_last_error(void)
{
    pthread_t thread;
    int right = 0;
    CHECK_FAILS(valve_cancel(NULL), VALVE_ERROR_ARGUMENT, "session: it is null");
    CHECK(pthread_create(&thread, NULL, fail, &right) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(right);
    CHECK(strcmp(valve_last_error(NULL), "session: it is null") == 0);
}

/* A session that is closed while another thread draws from it. */
static void check_close(void)
{
    valve_engine *engine = open_engine(1);
    struct job job;
    pthread_t thread;
    memset(&job, 0, sizeof job);
    job.text = "and the thing";
    job.session = open_session(engine);
    CHECK(pthread_create(&thread, NULL, run, &job) == 0);
    CHECK(valve_session_close(job.session) == VALVE_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_FAILS(valve_cancel(job.session), VALVE_ERROR_HANDLE, "session: it is not open");
    CHECK(valve_close(engine) == VALVE_OK);
}

/* What a callback heard, and when it stops loading. */
struct heard {
    int calls;
    float last;
    float stop_at;
};

static int hear(float fraction, void *user)
{
    struct heard *heard = (struct heard *)user;
    heard->calls++;
    heard->last = fraction;
    return fraction < heard->stop_at;
}

static void check_progress(void)
{
    valve_engine *engine = NULL;
    valve_options options;
    struct heard heard = {0, 0, 2};
    CHECK(valve_options_init(&options, sizeof options) == VALVE_OK);
    options.progress = hear;
    options.user = &heard;
    CHECK(valve_open(path_of("model.gguf"), &options, &engine) == VALVE_OK);
    CHECK(heard.calls > 1 && heard.last == 1);
    CHECK(valve_close(engine) == VALVE_OK);
    heard.stop_at = 0;
    CHECK_FAILS(valve_open(path_of("model.gguf"), &options, &engine), VALVE_ERROR_CANCELLED, "cancelled");
    CHECK(engine == NULL);
}

void check_threads(void)
{
    check_sessions();
    check_cancel();
    check_last_error();
    check_close();
    check_progress();
}
