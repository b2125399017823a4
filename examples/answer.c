/* One question, answered while a valve sets how long the model thinks.
 *
 *     cargo rustc --release --lib --no-default-features --features capi --crate-type cdylib
 *     cc -Isrc examples/answer.c -Ltarget/release -lcotvalve -Wl,-rpath,$PWD/target/release -o target/answer
 *     target/answer MODEL.gguf REASONER.gguf VALVE.gguf 0.5 "How much is 3 times 4?"
 */

#include "capi.h"

#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the library's words if a call failed. */
static void must(valve_status status)
{
    if (status != VALVE_OK) {
        fprintf(stderr, "answer: %s\n", valve_last_error(NULL));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    valve_engine *engine;
    valve_session *session;
    valve_sampling sampling;
    valve_message question = {"user", NULL};
    uint32_t reasoner, valve, stop = VALVE_STOP_NONE;
    const char *text;

    if (argc != 6) {
        fputs("usage: answer MODEL REASONER VALVE ALPHA QUESTION\n", stderr);
        return 2;
    }
    must(valve_open(argv[1], NULL, &engine));
    must(valve_attach(engine, argv[2], &reasoner));
    must(valve_attach(engine, argv[3], &valve));
    must(valve_session_open(engine, &session));
    must(valve_set_alpha(session, reasoner, 1, VALVE_SCOPE_ALL));
    must(valve_set_alpha(session, valve, strtof(argv[4], NULL), VALVE_SCOPE_ALL));

    question.content = argv[5];
    must(valve_prompt_chat(session, &question, 1, NULL));
    must(valve_sampling_init(&sampling, sizeof sampling));
    sampling.temperature = 0;
    must(valve_generate(session, &sampling, 0));
    while (stop == VALVE_STOP_NONE) {
        must(valve_next(session, NULL, &text, NULL, &stop));
        fputs(text, stdout);
        fflush(stdout);
    }
    puts("");

    must(valve_session_close(session));
    must(valve_close(engine));
    return 0;
}
