/* A small module, and the ways in which one can be wrong, chosen with -D. Without any: it lacks all hooks that are
 * optional, leaves out each client's first byte, and copies the rest. */
#include "tcpcopy_module.h"

#ifndef NAME
#define NAME "variant"
#endif
#ifndef VERSION
#define VERSION TCPCOPY_ABI_VERSION
#endif
#ifndef SIZE
#define SIZE sizeof(tcpcopy_module_table)
#endif
#ifndef TRANSPORT
#define TRANSPORT TCPCOPY_TRANSPORT_TCP
#endif
#ifndef OPTION_COUNT
#define OPTION_COUNT 0
#endif

struct tcpcopy_session {
    int taken;
    int first;
};

/* One session at a time is enough here. */
static struct tcpcopy_session the_session;

static uint32_t create(const tcpcopy_host *host, tcpcopy_ctx *ctx, const tcpcopy_setting *settings, size_t count,
                       tcpcopy_module_state **module)
{
    (void)settings, (void)count, (void)module;
    if (host->abi_version != TCPCOPY_ABI_VERSION || host->struct_size != sizeof *host) {
        const tcpcopy_slice text = TCPCOPY_TEXT("the program's table is another");
        host->fail(ctx, text);
        return TCPCOPY_FAILED;
    }
    if (host->info(ctx) != NULL || host->now(ctx) != 0)
        return TCPCOPY_FAILED;
    host->pass(ctx, 1);
#ifdef CREATE_SILENT
    return TCPCOPY_FAILED;
#else
    return TCPCOPY_OK;
#endif
}

static void destroy(tcpcopy_module_state *module)
{
    (void)module;
}

static uint32_t session_open(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx,
                             const tcpcopy_session_info *info, tcpcopy_session **session)
{
    (void)host, (void)ctx, (void)info;
    if (module != NULL || the_session.taken)
        return TCPCOPY_FAILED;
    the_session.taken = 1;
    the_session.first = 1;
    *session = &the_session;
    return TCPCOPY_OK;
}

static void session_destroy(tcpcopy_session *session)
{
    session->taken = 0;
}

static uint32_t on_client_data(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data)
{
    static const tcpcopy_slice reason = TCPCOPY_TEXT("first byte");
#ifdef HOOK_FAILS
    (void)session, (void)data, (void)reason;
    static const tcpcopy_slice why = TCPCOPY_TEXT("a hook in C gave up");
    host->fail(ctx, why);
    return TCPCOPY_FAILED;
#endif
#ifdef SENDS_NOWHERE
    const tcpcopy_slice nowhere = { NULL, 5 };
    host->send(ctx, nowhere);
#endif
    if (session->first) {
        session->first = 0;
        host->drop(ctx, 1, reason);
        host->pass(ctx, data.len - 1);
    } else {
        host->pass(ctx, data.len);
    }
    return TCPCOPY_OK;
}

static const tcpcopy_module_table table = {
    .abi_version = VERSION,
    .struct_size = SIZE,
    .name = TCPCOPY_TEXT(NAME),
    .version = TCPCOPY_TEXT("1"),
    .summary = TCPCOPY_TEXT("leaves the first byte out"),
    .transport = TRANSPORT,
    .option_count = OPTION_COUNT,
    .create = create,
    .destroy = destroy,
    .session_open = session_open,
    .session_destroy = session_destroy,
#ifndef NO_CLIENT_DATA
    .on_client_data = on_client_data,
#endif
};

const tcpcopy_module_table *tcpcopy_module(void)
{
#ifdef NO_TABLE
    (void)table;
    return NULL;
#else
    return &table;
#endif
}
