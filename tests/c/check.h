/* Checks that are counted, and files to run them on. */
#ifndef CHECK_H
#define CHECK_H

#include "capi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The main thread's alone. */
extern int checks;
extern int failures;

#define CHECK(what)                                                                         \
    do {                                                                                    \
        checks++;                                                                           \
        if (!(what)) {                                                                      \
            failures++;                                                                     \
            printf("%s:%d: %s; last error: %s\n", __FILE__, __LINE__, #what, valve_last_error(NULL)); \
        }                                                                                   \
    } while (0)

/* The call fails with this status, which is the last error's too, and the message has these words. */
#define CHECK_FAILS(call, status, words)                                                    \
    do {                                                                                    \
        valve_status heard = VALVE_OK, got = (call);                                        \
        const char *message = valve_last_error(&heard);                                     \
        CHECK(got == (status));                                                             \
        CHECK(heard == (status));                                                           \
        CHECK(strstr(message, (words)) != NULL);                                            \
    } while (0)

/* The path of a file in the folder of the tests; good until the next call. */
const char *path_of(const char *name);

/* The tiny model with room for `sessions`, and a session of it. */
valve_engine *open_engine(uint32_t sessions);
valve_session *open_session(valve_engine *engine);

/* Greedy tokens after a text; returns how many. */
size_t answer(valve_session *session, const char *text, size_t limit, uint32_t *tokens);

void check_misuse(void);
void check_threads(void);

#endif
