/* cotvalve from C: a GGUF model, adapters on it, and sessions in which a valve sets how long the model thinks.
 *
 *     y = W·x + α · s · B·(A·x)        α = 0 is the base model bit for bit, 1 the adapter as trained
 *
 * Build the library, then a program with it:
 *
 *     cargo rustc --release --lib --no-default-features --features capi --crate-type cdylib,staticlib
 *     cc -Isrc program.c -Ltarget/release -lcotvalve -Wl,-rpath,$PWD/target/release
 *
 * `--features capi,grammar` for answers that follow a JSON schema.
 *
 * Errors. A call returns VALVE_OK (0), or why it failed; valve_last_error has the words. A call that fails opens
 * nothing and leaves a timeline as it was; what it would have written through its pointers is then not to be used. A
 * fault of the library is VALVE_ERROR_PANIC, never an abort; the engine can be used further.
 *
 * Handles. valve_engine and valve_session are handles, not addresses: one that is null, was closed, or never came from
 * here is an error. Whoever opens one closes it. A session keeps what it needs of its engine, so the two may be closed
 * in any order; the memory goes when both are.
 *
 * Threads. Every call may come from any thread at any time. Calls on one session take turns: one waits for another
 * that runs, but valve_cancel, which never waits. Calls on different sessions of one engine run at the same time; their
 * rows are computed together, and no session's result depends on another. Open an engine with as many `sessions` as
 * are in use at once. The text of valve_next is good until the next call of valve_next on its session, or its close,
 * by any thread; two threads that draw from one session must agree on it. The last error belongs to the thread.
 *
 * Texts are UTF-8 and end in NUL; paths are what the system takes. Pointers that are not null must point to what is
 * described; nothing is kept of them after the call returns. A callback must return: no longjmp, no C++ exception.
 */
#ifndef VALVE_H
#define VALVE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors ---- */

typedef int32_t valve_status;
enum {
    VALVE_OK = 0,
    VALVE_ERROR_ARGUMENT = 1,     /* null, out of its range, or no UTF-8 */
    VALVE_ERROR_HANDLE = 2,       /* closed, or never open */
    VALVE_ERROR_STATE = 3,        /* does not fit what was called before */
    VALVE_ERROR_IO = 4,           /* the system refused a file */
    VALVE_ERROR_MALFORMED = 5,    /* a file is damaged */
    VALVE_ERROR_UNSUPPORTED = 6,  /* a file asks for what this library does not do */
    VALVE_ERROR_ADAPTER = 7,      /* an adapter does not fit the model */
    VALVE_ERROR_TEMPLATE = 8,     /* the chat template is missing, failed, or exceeded its limits */
    VALVE_ERROR_TOKENIZER = 9,
    VALVE_ERROR_CONTEXT_FULL = 10,
    VALVE_ERROR_CANCELLED = 11,
    VALVE_ERROR_DEVICE = 12,
    VALVE_ERROR_PANIC = 13,       /* a fault of the library */
    VALVE_ERROR_OTHER = 14
};

/* The words for the last call of this thread that failed; "" before the first. Good until this thread's next failure.
 * `status`, which may be null, gets that call's status. Calls that succeed change neither. */
const char *valve_last_error(valve_status *status);

/* The version of the library. */
const char *valve_version(void);

/* ---- Engine: a model, ready to run ---- */

typedef struct valve_engine valve_engine;

/* Hears the fraction loaded, 0 to 1; returns whether to go on. 0 makes valve_open return VALVE_ERROR_CANCELLED. */
typedef int (*valve_progress)(float fraction, void *user);

/* Element types, by their GGUF ids. */
enum {
    VALVE_TYPE_F32 = 0,
    VALVE_TYPE_F16 = 1,
    VALVE_TYPE_Q8_0 = 8           /* for models whose head size is a multiple of 32 */
};

enum {
    VALVE_PRECISION_INT8 = 0,     /* activations quantized to 8 bits: fast */
    VALVE_PRECISION_FLOAT = 1     /* float activations: the truth */
};

/* Structures that start with their size grow at the end: a program built against an older header gets the defaults of
 * the fields it does not know, one built against a newer header may use an older library as long as it leaves what
 * that does not know at zero. Make them with their init function and change fields then. */
typedef struct valve_options {
    size_t size;
    uint32_t threads;             /* of the processor; 0: all (default) */
    uint32_t context;             /* tokens of a session; 0: what the model was trained on (default) */
    uint32_t sessions;            /* whose caches fit at the same time; default 1 */
    uint32_t batch;               /* tokens of a prompt computed at once; default 512 */
    uint32_t kv_type;             /* of cached keys and values: VALVE_TYPE_F16 (default) or another of the list */
    uint32_t precision;           /* VALVE_PRECISION_INT8 (default) or VALVE_PRECISION_FLOAT */
    valve_progress progress;      /* null: none (default) */
    void *user;                   /* for `progress` */
} valve_options;

/* Sets `options` to the defaults; `size` is sizeof(valve_options). */
valve_status valve_options_init(valve_options *options, size_t size);

/* Opens the GGUF file `model`; `options` may be null. The file must not be shortened while it is open. */
valve_status valve_open(const char *model, const valve_options *options, valve_engine **engine);

/* Closes a handle. Sessions of the engine stay usable. */
valve_status valve_close(valve_engine *engine);

/* Attaches a LoRA adapter, a GGUF file or a folder that PEFT saved, closed in every session until valve_set_alpha opens
 * it. `valve`, which may be null, gets its number: adapters of an engine count from 0. */
valve_status valve_attach(valve_engine *engine, const char *adapter, uint32_t *valve);

/* The tokens of `text`, with what the model puts around a text. If `parse_special` is not 0, control tokens that are
 * written in the text become themselves; text from a user must not. Writes at most `capacity` of them to `tokens`
 * (null if `capacity` is 0) and how many there are to `count` (may be null). */
valve_status valve_tokenize(valve_engine *engine, const char *text, int32_t parse_special, uint32_t *tokens,
                            size_t capacity, size_t *count);

/* ---- Session: one timeline of tokens, a prompt and what was generated after it ---- */

typedef struct valve_session valve_session;

valve_status valve_session_open(valve_engine *engine, valve_session **session);

/* Closes a handle; a call that still runs on it in another thread ends as it would have. */
valve_status valve_session_close(valve_session *session);

/* Which tokens a valve acts on. */
enum {
    VALVE_SCOPE_ALL = 0,          /* every token, the prompt's too */
    VALVE_SCOPE_GENERATION = 1,   /* from the first generated token on */
    VALVE_SCOPE_THINK = 2         /* in a thought; a model whose template knows no thoughts is an error */
};

/* Turns a valve: any finite `alpha`, from the next token on, in mid-answer too. What is in the cache stays until the
 * next prompt, which keeps of it only what the new setting would have computed alike. */
valve_status valve_set_alpha(valve_session *session, uint32_t valve, float alpha, uint32_t scope);

/* The same with a dial that moves, as the command line writes it: "0=0.2,64=0.9" is 0.2 from the first token of the
 * scope on and 0.9 from token 64 on, "0.2..0.9@200" a line from 0.2 to 0.9 over 200 tokens. */
valve_status valve_set_dial(valve_session *session, uint32_t valve, const char *dial, uint32_t scope);

/* One message of a conversation. */
typedef struct valve_message {
    const char *role;             /* "system", "user", "assistant" or what else the model's template knows */
    const char *content;
} valve_message;

/* These make the timeline a prompt, and end a running generation. `kept`, which may be null, gets how many of its
 * tokens are in the cache already; the others are computed by the first valve_next.
 *
 * Chat: the whole conversation so far, through the model's template. Control tokens that are written in a message
 * become themselves: clean text from users who may not write them.
 * Text: as it is; control tokens become themselves.
 * Tokens: at least one. */
valve_status valve_prompt_chat(valve_session *session, const valve_message *messages, size_t count, size_t *kept);
valve_status valve_prompt_text(valve_session *session, const char *text, size_t *kept);
valve_status valve_prompt_tokens(valve_session *session, const uint32_t *tokens, size_t count, size_t *kept);

/* How tokens are drawn. Same seed, same text. */
typedef struct valve_sampling {
    size_t size;
    uint64_t seed;                /* default 0 */
    float temperature;            /* 0: the likeliest token; default 0.8 */
    uint32_t top_k;               /* keep the k likeliest; 0: all; default 40 */
    float top_p;                  /* keep the likeliest that sum to this; 1: all; default 0.95 */
    float min_p;                  /* keep those this fraction as likely as the likeliest; 0: all; default 0.05 */
    float typical_p;              /* keep those of typical surprise that sum to this; 1: all (default) */
    float top_n_sigma;            /* keep those this many deviations below the highest; 0 and below: all (default) */
    float repeat_penalty;         /* on recent tokens; 1: none (default) */
    uint32_t repeat_last_n;       /* tokens that are recent; default 64 */
    float frequency_penalty;      /* for each time a recent token occurs; default 0 */
    float presence_penalty;       /* for a recent token, once; default 0 */
    const char *const *stop;      /* `stop_count` texts that end the answer and are no part of it; default null */
    size_t stop_count;
    const char *json_schema;      /* what the answer must follow; needs the feature `grammar`; null: none (default) */
} valve_sampling;

/* Sets `sampling` to the defaults; `size` is sizeof(valve_sampling). */
valve_status valve_sampling_init(valve_sampling *sampling, size_t size);

/* Starts to generate after the prompt, and ends a running generation. `sampling` may be null. `limit` is the most
 * tokens to draw; 0: what fits the context. */
valve_status valve_generate(valve_session *session, const valve_sampling *sampling, size_t limit);

/* Why a token is the last. */
enum {
    VALVE_STOP_NONE = 0,          /* it is not */
    VALVE_STOP_END = 1,           /* the model ended its answer */
    VALVE_STOP_LIMIT = 2,
    VALVE_STOP_TEXT = 3           /* one of `stop` is complete */
};

/* Draws the next token. Each of the four may be null: `token` gets its id; `text` what is certain of the text with it,
 * `bytes` long without its NUL: empty while a character is incomplete, and for control tokens; `stop` why it is the
 * last. After the last token, and after an error, no generation runs: VALVE_ERROR_STATE. */
valve_status valve_next(valve_session *session, uint32_t *token, const char **text, size_t *bytes, uint32_t *stop);

/* Makes the running generation's valve_next return VALVE_ERROR_CANCELLED, in the midst of a long prompt too. Without a
 * generation it does nothing that the next valve_generate would not take back. Never waits. */
valve_status valve_cancel(valve_session *session);

/* The timeline: prompt, and what was drawn. Writes as valve_tokenize does. */
valve_status valve_tokens(valve_session *session, uint32_t *tokens, size_t capacity, size_t *count);

/* The α that `valve` had at each token that is in the cache, as used. Writes as valve_tokenize does. */
valve_status valve_openings(valve_session *session, uint32_t valve, float *openings, size_t capacity, size_t *count);

#ifdef __cplusplus
}
#endif

#endif
