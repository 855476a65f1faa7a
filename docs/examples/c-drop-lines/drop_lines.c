/*
 * drop_lines: a module for tcpcopy in plain C.
 *
 * Copies a protocol of lines, and leaves out the lines that begin with one of the given words, in upper or lower case:
 * for a server whose test copy must not see QUIT, or FLUSH_ALL. Build it with `make`, and:
 *
 *     tcpcopy -x 7000-10.0.0.2:7000 -s 10.0.0.3 --proto ./libtcpcopy_drop-lines.so --proto-opt words=quit,flush_all
 *
 * Everything that a module has is here: a table, options that are read, a session with a state, bytes that are passed,
 * dropped and held, a client that talks nonsense, and joining a connection whose beginning was not captured.
 */
#include <stdlib.h>
#include <string.h>

#include "tcpcopy_module.h"

/* A client that sends more than this without an end of line is not speaking a protocol of lines. */
#define MAX_LINE 65536

/* What all sessions share: the words, one after another, each with a NUL behind it, and an empty one at the end. Nobody
 * writes to it after `create`, so that sessions on several threads need no lock. */
struct tcpcopy_module_state {
    char *words;
};

struct tcpcopy_session {
    const char *words;
    size_t searched; /* Bytes that are held, and have no end of line. They need not be looked at again. */
};

static unsigned char lower(unsigned char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte + ('a' - 'A')) : byte;
}

/* Makes the list of words of `WORD[,WORD...]`; NULL without memory. */
static char *split(tcpcopy_slice value)
{
    char *words = calloc(value.len + 2, 1);
    size_t end = 0;

    if (words == NULL)
        return NULL;
    for (size_t i = 0; i < value.len; i++) {
        unsigned char byte = value.data[i];
        if (byte != ',' && byte != 0)
            words[end++] = (char)lower(byte);
        else if (end > 0 && words[end - 1] != 0)
            words[end++] = 0;
    }
    return words;
}

static uint32_t create(const tcpcopy_host *host, tcpcopy_ctx *ctx, const tcpcopy_setting *settings, size_t count,
                       tcpcopy_module_state **module)
{
    static const tcpcopy_slice no_words = TCPCOPY_TEXT("option `words`: give one word or more, as in words=quit,shutdown");
    static const tcpcopy_slice no_memory = TCPCOPY_TEXT("no memory for the option `words`");
    tcpcopy_slice value = TCPCOPY_TEXT("quit");
    tcpcopy_module_state *made;

    /* There is one option only. If it was given several times, the last one counts. */
    if (count > 0)
        value = settings[count - 1].value;
    made = malloc(sizeof *made);
    if (made == NULL || (made->words = split(value)) == NULL) {
        free(made);
        host->fail(ctx, no_memory);
        return TCPCOPY_FAILED;
    }
    if (made->words[0] == 0) {
        free(made->words);
        free(made);
        host->fail(ctx, no_words);
        return TCPCOPY_FAILED;
    }
    *module = made;
    return TCPCOPY_OK;
}

static void destroy(tcpcopy_module_state *module)
{
    free(module->words);
    free(module);
}

static uint32_t session_open(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx,
                             const tcpcopy_session_info *info, tcpcopy_session **session)
{
    static const tcpcopy_slice no_memory = TCPCOPY_TEXT("no memory for a session");

    (void)info;
    *session = calloc(1, sizeof **session);
    if (*session == NULL) {
        host->fail(ctx, no_memory);
        return TCPCOPY_FAILED;
    }
    (*session)->words = module->words;
    return TCPCOPY_OK;
}

static void session_destroy(tcpcopy_session *session)
{
    free(session);
}

/* Whether a line's first word, which ends with a space, a tab or the line, is one of the list. */
static int is_listed(const char *words, const uint8_t *line, size_t len)
{
    size_t first = 0;

    while (first < len && line[first] != ' ' && line[first] != '\t' && line[first] != '\r' && line[first] != '\n')
        first++;
    for (; *words != 0; words += strlen(words) + 1) {
        size_t i = 0;

        while (i < first && words[i] != 0 && lower(line[i]) == (unsigned char)words[i])
            i++;
        if (i == first && words[i] == 0)
            return 1;
    }
    return 0;
}

static uint32_t on_client_data(tcpcopy_session *session, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data)
{
    static const tcpcopy_slice listed = TCPCOPY_TEXT("begins with a word of the list");
    static const tcpcopy_slice too_long = TCPCOPY_TEXT("a line of more than 64 KB");
    const uint8_t *line = data.data, *end, *from = data.data + session->searched;
    size_t left = data.len;

    /* Whole lines are decided about, each as one message. Half a line stays undecided, and comes again with more. */
    while ((end = memchr(from, '\n', (size_t)(line + left - from))) != NULL) {
        size_t len = (size_t)(end - line) + 1;

        if (is_listed(session->words, line, len))
            host->drop(ctx, len, listed);
        else
            host->pass(ctx, len);
        line += len;
        left -= len;
        from = line;
    }
    session->searched = left;
    if (left > MAX_LINE)
        host->abort(ctx, too_long);
    return TCPCOPY_OK;
}

/* On a connection whose beginning was not captured, the first message is what follows an end of line. */
static uint32_t join_at(tcpcopy_module_state *module, const tcpcopy_host *host, tcpcopy_ctx *ctx, tcpcopy_slice data,
                        size_t *offset)
{
    const uint8_t *end = data.len > 0 ? memchr(data.data, '\n', data.len) : NULL;

    (void)module, (void)host, (void)ctx;
    if (end != NULL)
        *offset = (size_t)(end - data.data) + 1;
    return TCPCOPY_OK;
}

static const tcpcopy_option options[] = {
    {
        .name = TCPCOPY_TEXT("words"),
        .value = TCPCOPY_TEXT("WORD[,WORD...]"),
        .help = TCPCOPY_TEXT("leave out lines that begin with one of these; quit unless given"),
    },
};

/* Hooks that are not named are NULL: the program does the usual thing. */
static const tcpcopy_module_table table = {
    .abi_version = TCPCOPY_ABI_VERSION,
    .struct_size = sizeof(tcpcopy_module_table),
    .name = TCPCOPY_TEXT("drop-lines"),
    .version = TCPCOPY_TEXT("1.0"),
    .summary = TCPCOPY_TEXT("leaves out lines that begin with given words"),
    .transport = TCPCOPY_TRANSPORT_TCP,
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .create = create,
    .destroy = destroy,
    .session_open = session_open,
    .session_destroy = session_destroy,
    .join_at = join_at,
    .on_client_data = on_client_data,
};

const tcpcopy_module_table *tcpcopy_module(void)
{
    return &table;
}
