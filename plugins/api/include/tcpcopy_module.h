/*
 * tcpcopy_module.h: protocol modules for tcpcopy, in C.
 *
 * A module teaches tcpcopy a protocol. It is a shared library, libtcpcopy_NAME.so, that has one symbol,
 *
 *     const tcpcopy_module_table *tcpcopy_module(void);
 *
 * and is loaded with `--proto NAME` (from the folder given with --module-dir or a standard one) or `--proto ./path.so`:
 *
 *     cc -std=c11 -Wall -shared -fPIC -I plugins/api/include -o libtcpcopy_NAME.so NAME.c
 *
 * Words: the client is who talks to the production server, online. The target is the server under test, to which the
 * client's bytes are copied, on a connection of its own. A session is one client connection and its copy (with UDP: one
 * client address and port).
 *
 * How it goes:
 *
 *     tcpcopy_module()                once: what the module is called, which options it takes, its hooks
 *     create                          once, with the options that the user gave
 *       session_open                  each time a client begins to talk: watch it, or let everything through
 *         on_open                     first hook of a session that is watched
 *         on_client_data ...          and the other hooks, as things happen
 *         on_close                    last hook
 *         session_destroy
 *     destroy                         once, when the program ends
 *
 * Rules:
 *
 *   - Hooks run on the thread that copies packets. They must not block, sleep, do I/O, or allocate without a bound. What
 *     a client sends is anybody's: trust no length in it.
 *   - A session's hooks never run at the same time, but may run on different threads one after another. Hooks of the
 *     module itself (session_open, join_at, after_target_close) may run on several threads at once: lock what they write.
 *     create and destroy have the module for themselves.
 *   - Pointers that a hook is given, and what they point to, are good until it returns. Copy what is needed for longer.
 *     That includes `host` and `ctx`: calling the program at any other time, from another thread or with another
 *     session's ctx, is not allowed.
 *   - Pointers that a hook gives to a callback must be good until the callback returns; the program copies what it keeps.
 *     Nothing is allocated on one side and freed on the other.
 *   - The table and all it points to must stay as they are, for good. A library is never unloaded.
 *   - A hook returns; it must not longjmp, throw a C++ exception, call exit() or end its thread.
 *   - Texts are UTF-8, have a length and need no NUL at their end. Lengths are in bytes, times in nanoseconds, ports in
 *     the host's byte order.
 *   - Only `tcpcopy_module` should be visible from outside: make everything else static.
 */
#ifndef TCPCOPY_MODULE_H
#define TCPCOPY_MODULE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this file. It goes up with every change of a struct, a signature or a meaning. A module and a program
 * that differ in it do not work together: the program says so, and does not start. */
#define TCPCOPY_ABI_VERSION UINT32_C(1)

/* What a hook returns. */
#define TCPCOPY_OK       UINT32_C(0) /* It did what it should. */
#define TCPCOPY_FAILED   UINT32_C(1) /* It failed: say why with host->fail first. In `create`: the options cannot be used,
                                        and the program does not start. In any other hook: the module is broken, and the
                                        session is ended and counted as one in which it panicked. A client that talks
                                        nonsense is no failure of the module: that is host->abort, and TCPCOPY_OK. */
#define TCPCOPY_PANICKED UINT32_C(2) /* What modules in Rust return when a panic was caught. */

/* tcpcopy_module_table.transport: protocol numbers of IP. */
#define TCPCOPY_TRANSPORT_TCP UINT32_C(6)
#define TCPCOPY_TRANSPORT_UDP UINT32_C(17)

/* tcpcopy_host.want_payload: how much of the target's bytes. Numbers between are the first so many bytes of each packet;
 * 65535 is the most that a packet has. */
#define TCPCOPY_PAYLOAD_NONE UINT32_C(0)
#define TCPCOPY_PAYLOAD_FULL UINT32_MAX

/* tcpcopy_module_table.join_at: no message begins in these bytes. */
#define TCPCOPY_NO_BOUNDARY SIZE_MAX

/* tcpcopy_module_table.after_target_close. */
#define TCPCOPY_AFTER_CLOSE_END       UINT32_C(0) /* Give the session up. */
#define TCPCOPY_AFTER_CLOSE_RECONNECT UINT32_C(1) /* Connect again, and go on with what the client sends next. */

/* tcpcopy_host.log. */
#define TCPCOPY_LOG_ERROR UINT32_C(1) /* Something does not work, and a person has to do something about it. */
#define TCPCOPY_LOG_WARN  UINT32_C(2) /* Something is not as it should be. */
#define TCPCOPY_LOG_INFO  UINT32_C(3) /* Worth knowing. */
#define TCPCOPY_LOG_DEBUG UINT32_C(4) /* For whoever looks for a fault. */

/* The module's own, whatever it likes: define these structs, or cast. */
typedef struct tcpcopy_module_state tcpcopy_module_state;
typedef struct tcpcopy_session tcpcopy_session;

/* The program's own: one call of a hook. Hand it back to the callbacks. */
typedef struct tcpcopy_ctx tcpcopy_ctx;

/* Bytes or a text: so many from there on. `data` may be NULL when `len` is 0, and only then. */
typedef struct tcpcopy_slice {
    const uint8_t *data;
    size_t len;
} tcpcopy_slice;

/* The slice of a string literal, in an initializer: TCPCOPY_TEXT("memcached"). */
#define TCPCOPY_TEXT(literal) { (const uint8_t *)("" literal), sizeof("" literal) - 1 }

/* An address and a port. */
typedef struct tcpcopy_endpoint {
    uint16_t ip_version; /* 4 or 6. */
    uint16_t port;       /* In the host's byte order. */
    uint8_t address[16]; /* As in an IP header. An IPv4 address is the first four bytes, and zeros follow. */
} tcpcopy_endpoint;

/* A connection: the side that opened it, and the side that listens. */
typedef struct tcpcopy_flow {
    tcpcopy_endpoint client;
    tcpcopy_endpoint server;
} tcpcopy_flow;

/* Who talks to whom. */
typedef struct tcpcopy_session_info {
    tcpcopy_flow online; /* The client's connection to online. */
    tcpcopy_flow target; /* The replica's connection to the target. */
    uint32_t joined;     /* 1 when the session was joined mid-stream: its beginning was not captured. Otherwise 0. */
} tcpcopy_session_info;

/* An option that the module takes: `--proto-opt NAME=VALUE`, or a key of the table [module.<the module's name>] of the
 * configuration file. */
typedef struct tcpcopy_option {
    tcpcopy_slice name;  /* Letters, digits, `-` and `_`; 64 bytes at most. */
    tcpcopy_slice value; /* What its value is, for help: `N`, `WORD[,WORD...]`. */
    tcpcopy_slice help;  /* What it does, in a line. */
} tcpcopy_option;

/* An option that was given. Only names that the module has listed come. One that was given several times comes several
 * times, in order; the last one counts. */
typedef struct tcpcopy_setting {
    tcpcopy_slice name;
    tcpcopy_slice value;
} tcpcopy_setting;

/*
 * What a hook may ask of the program. All are there. Calls take effect in their order, when the hook has returned.
 *
 * In hooks that have no session (create, session_open, join_at, after_target_close) only `fail` has an effect; `info`
 * gives NULL, `now` and `missing_responses` 0.
 */
typedef struct tcpcopy_host {
    uint32_t abi_version; /* TCPCOPY_ABI_VERSION of the program, always that of the module. */
    uint32_t struct_size; /* The size of this struct in bytes. */

    /* Says in words why the hook is about to return TCPCOPY_FAILED. */
    void (*fail)(tcpcopy_ctx *ctx, tcpcopy_slice text);

    /* Who talks to whom; good until the hook returns. */
    const tcpcopy_session_info *(*info)(tcpcopy_ctx *ctx);

    /* The time on the program's own clock, in nanoseconds from a moment that means nothing. Never goes back. */
    uint64_t (*now)(tcpcopy_ctx *ctx);

    /* Copies the next `n` bytes of the client, as one message. Those that have not come yet are copied when they come,
     * without being shown. */
    void (*pass)(tcpcopy_ctx *ctx, size_t n);

    /* Leaves the next `n` bytes of the client out, and counts them under `reason`. Those that have not come yet are left
     * out when they come. Use few reasons, and constant ones. */
    void (*drop)(tcpcopy_ctx *ctx, size_t n, tcpcopy_slice reason);

    /* Sends bytes of the module's own, as one message: behind what was passed or sent before, in front of what is held.
     * Directly after a `drop`, in the same hook, they take the place of what was dropped. */
    void (*send)(tcpcopy_ctx *ctx, tcpcopy_slice bytes);

    /* Shows on_client_data once more what is held, when this hook has returned. */
    void (*ask_again)(tcpcopy_ctx *ctx);

    /* Gives the session up. `reason` is for the log and the statistics. */
    void (*abort)(tcpcopy_ctx *ctx, tcpcopy_slice reason);

    /* Copies what is held and all that follows, without asking again, until `watch`. */
    void (*bypass)(tcpcopy_ctx *ctx);

    /* Ends `bypass` with the client's next bytes. */
    void (*watch)(tcpcopy_ctx *ctx);

    /* The target will answer what was passed or sent last. From the first such call on, what a client sends after it has
     * received something goes to the target when response_complete was called as often as this was for what went before
     * it, and no sooner. A session that never calls this is gated by the amount of bytes and by pauses. What was sent over
     * a connection that is gone counts as answered. */
    void (*expect_response)(tcpcopy_ctx *ctx);

    /* The target has answered one of the messages that expect_response was called for. */
    void (*response_complete)(tcpcopy_ctx *ctx);

    /* Gives up the connection to the target and opens a new one; then comes on_resume. Messages that the target has not
     * acknowledged, or only in part, are left out and counted. What goes on is the next whole message. */
    void (*reconnect)(tcpcopy_ctx *ctx);

    /* Responses that are expected and not complete. In on_resume these are the responses to the messages that will go over
     * the new connection: the last so many for which expect_response was called. The ones before them were left to the old
     * connection, and nothing more will be heard of them. */
    uint64_t (*missing_responses)(tcpcopy_ctx *ctx);

    /* In on_resume, and until ready: the messages that wait for the new connection will not go there. They are counted under
     * `reason`, and no response to them is expected any more. For messages that mean something on the old connection alone,
     * and that the session sends anew in other words. */
    void (*forget_waiting)(tcpcopy_ctx *ctx, tcpcopy_slice reason);

    /* The new connection is as it must be for the client's messages. See on_resume. */
    void (*ready)(tcpcopy_ctx *ctx);

    /* How much of the target's bytes the session wants to see from now on: TCPCOPY_PAYLOAD_NONE, as it is at the start,
     * TCPCOPY_PAYLOAD_FULL, or the first so many bytes of each packet. */
    void (*want_payload)(tcpcopy_ctx *ctx, uint32_t how_much);

    /* Says something in the log, with the session's name in front. Lines that come too fast are left out and counted. */
    void (*log)(tcpcopy_ctx *ctx, uint32_t level, tcpcopy_slice text);

    /* Adds `n` to the module's counter `name`, which the statistics show. Use few names, and constant ones. */
    void (*count)(tcpcopy_ctx *ctx, tcpcopy_slice name, uint64_t n);
} tcpcopy_host;

/*
 * A module. Hooks that are said to be optional may be NULL; a table that lacks another one is refused.
 *
 * Every hook that returns a number returns TCPCOPY_OK or TCPCOPY_FAILED. A failure in a hook that concerns a session ends
 * that session, is counted and logged, and no hook but session_destroy is called for it any more.
 */
typedef struct tcpcopy_module_table {
    /* These two come first in every version, so that a program can say what does not fit. */
    uint32_t abi_version; /* TCPCOPY_ABI_VERSION. */
    uint32_t struct_size; /* sizeof(tcpcopy_module_table). */

    tcpcopy_slice name;    /* As `--proto` takes it: lower-case letters, digits, `-` and `_`, a letter first; 64 bytes at
                              most. The file is libtcpcopy_NAME.so, where `-` may be `_`. */
    tcpcopy_slice version; /* 64 bytes at most. */
    tcpcopy_slice summary; /* What it does, in a line; like all texts for help, of 1024 bytes at most. */
    uint32_t transport;    /* TCPCOPY_TRANSPORT_TCP or TCPCOPY_TRANSPORT_UDP. */
    uint32_t sees_online;  /* 1: the program captures what online sends, too, for on_online_data. Otherwise 0. */

    const tcpcopy_option *options; /* The first of the options; NULL when there are none. */
    size_t option_count;           /* How many; 256 at most. */

    /* Makes the module. `settings` are `count` options; put a handle into *module. It may stay NULL: a module without a
     * state of its own needs none. On TCPCOPY_FAILED nothing else is called, not even `destroy`. */
    uint32_t (*create)(const tcpcopy_host *host, tcpcopy_ctx *ctx, const tcpcopy_setting *settings, size_t count,
                       tcpcopy_module_state **module);

    /* Frees what `create` made. All sessions have been destroyed before. */
    void (*destroy)(tcpcopy_module_state *module);

    /* A client begins to talk. Put a handle into *session to watch it. Left as it is, NULL, everything is copied and the
     * module is not asked again for this session: that costs nothing. */
    uint32_t (*session_open)(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx,
                             const tcpcopy_session_info *info, tcpcopy_session **session);

    /* Frees what `session_open` made. Comes exactly once for each session, last, also after a failure. */
    void (*session_destroy)(tcpcopy_session *session);

    /* Optional. Where copying may begin in `data`, the payload of a client's segment on a connection whose beginning was
     * not captured: put the offset of the first message into *offset, or leave the TCPCOPY_NO_BOUNDARY that is there.
     * Without this hook it is the start of the segment, which suits protocols whose clients begin each message in a
     * segment of its own. */
    uint32_t (*join_at)(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data,
                        size_t *offset);

    /* Optional. The target closed while the client still sends: put TCPCOPY_AFTER_CLOSE_RECONNECT into *answer to go on
     * with a new connection. Without this hook, or with *answer left as it is, the session is given up. */
    uint32_t (*after_target_close)(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx,
                                   uint32_t *answer);

    /* Optional. The session begins; the connection to the target is about to be opened. */
    uint32_t (*on_open)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx);

    /* The client's bytes that have not been decided yet, at least one, in order. Each byte is passed, dropped, or held:
     * what this hook leaves undecided is held, and shown again in front of the next bytes. With UDP `data` is one
     * datagram, and what is left undecided of it is dropped. */
    uint32_t (*on_client_data)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data);

    /* Optional. The client closed, and `held` are its bytes that have not been decided. Its close reaches the target once
     * they are. Without this hook they are dropped: a message cut off by the close. What it leaves undecided is shown to
     * on_client_data again after a hook that calls ask_again, and comes here once more if that leaves it undecided, too. */
    uint32_t (*on_client_close)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice held);

    /* Optional. Bytes of the target, in order, each of them once. Only after host->want_payload. `hidden` bytes follow
     * that are not shown: none with TCPCOPY_PAYLOAD_FULL. */
    uint32_t (*on_target_data)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data,
                               uint32_t hidden);

    /* Optional. Bytes of online, in order, between the client's own as they were captured. Only with `sees_online`.
     * `lost` bytes before these were not captured. */
    uint32_t (*on_online_data)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data,
                               uint64_t lost);

    /* Optional. There is a new connection to the target, after it closed or host->reconnect. Until host->ready nothing
     * that was passed before goes to the target, and host->send sends in front of it: the time to log in again. Without
     * this hook the connection is ready at once. */
    uint32_t (*on_resume)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx);

    /* Optional. The session is over. `reason.data` is NULL when it was copied to its end; otherwise `reason` says why it
     * was not. Only host->log and host->count have an effect. */
    uint32_t (*on_close)(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice reason);
} tcpcopy_module_table;

/* The one symbol that the module defines. Called once, before anything else. A module in C returns the address of a
 * static const table; NULL means that it failed. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const tcpcopy_module_table *tcpcopy_module(void);

#ifdef __cplusplus
}
#endif

#endif
