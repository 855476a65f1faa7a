/*
 * A protocol module that takes its time: each look at what a client sends takes so many milliseconds, in which its worker
 * does nothing else. So what one worker can do is known, on any machine.
 */
#include <stdlib.h>
#include <time.h>

#include "tcpcopy_module.h"

#define MILLISECONDS 3

static uint32_t create(const tcpcopy_host *host, tcpcopy_ctx *ctx, const tcpcopy_setting *settings, size_t count,
                       tcpcopy_module_state **module)
{
    (void)host, (void)ctx, (void)settings, (void)count;
    *module = malloc(1);
    return *module == NULL ? TCPCOPY_FAILED : TCPCOPY_OK;
}

static void destroy(tcpcopy_module_state *module)
{
    free(module);
}

static uint32_t session_open(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx,
                             const tcpcopy_session_info *info, tcpcopy_session **session)
{
    (void)module, (void)host, (void)ctx, (void)info;
    *session = malloc(1);
    return *session == NULL ? TCPCOPY_FAILED : TCPCOPY_OK;
}

static void session_destroy(tcpcopy_session *session)
{
    free(session);
}

static uint32_t on_client_data(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data)
{
    struct timespec left = { .tv_sec = 0, .tv_nsec = MILLISECONDS * 1000000L };

    (void)session;
    while (nanosleep(&left, &left) != 0)
        continue;
    host->pass(ctx, data.len);
    return TCPCOPY_OK;
}

static const tcpcopy_module_table table = {
    .abi_version = TCPCOPY_ABI_VERSION,
    .struct_size = sizeof(tcpcopy_module_table),
    .name = TCPCOPY_TEXT("slow"),
    .version = TCPCOPY_TEXT("1.0"),
    .summary = TCPCOPY_TEXT("takes its time"),
    .transport = TCPCOPY_TRANSPORT_TCP,
    .create = create,
    .destroy = destroy,
    .session_open = session_open,
    .session_destroy = session_destroy,
    .on_client_data = on_client_data,
};

const tcpcopy_module_table *tcpcopy_module(void)
{
    return &table;
}
