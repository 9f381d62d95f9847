/* What README.md says, in C with libfcgi. */
#include <fcgiapp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FCGX_Stream *in, *out, *err;
static FCGX_ParamArray env;

/* The value of `name` in the query, or NULL. It stays until the next call but seven. */
static const char *arg(const char *name)
{
    static char values[8][512];
    static unsigned turn;
    const char *query = FCGX_GetParam("QUERY_STRING", env);
    size_t length = strlen(name);
    while (query != NULL && *query != '\0') {
        size_t end = strcspn(query, "&");
        if (end > length && query[length] == '=' && strncmp(query, name, length) == 0) {
            char *value = values[turn++ % 8];
            snprintf(value, sizeof values[0], "%.*s", (int)(end - length - 1), query + length + 1);
            return value;
        }
        query += end + (query[end] == '&');
    }
    return NULL;
}

static long number(const char *name)
{
    const char *value = arg(name);
    return value == NULL ? 0 : atol(value);
}

static void send_pattern(long from, long size)
{
    static char piece[65536];
    char path[600];
    snprintf(path, sizeof path, "%s/pattern.bin", arg("dir"));
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, from, SEEK_SET) != 0)
        abort();
    while (size > 0) {
        size_t count = fread(piece, 1, size < 65536 ? (size_t)size : sizeof piece, file);
        if (count == 0)
            abort();
        FCGX_PutStr(piece, (int)count, out);
        size -= (long)count;
    }
    fclose(file);
}

static int wait_for(long piece)
{
    char path[600];
    snprintf(path, sizeof path, "%s/seen-%ld", arg("dir"), piece);
    for (int i = 0; i < 5000; i++) {
        if (access(path, F_OK) == 0)
            return 1;
        usleep(1000);
    }
    return 0;
}

static void echo(void)
{
    size_t room = 65536, length = 0;
    char *body = malloc(room);
    int count;
    while (body != NULL && (count = FCGX_GetStr(body + length, (int)(room - length), in)) > 0) {
        length += (size_t)count;
        if (length == room)
            body = realloc(body, room *= 2);
    }
    if (body == NULL)
        abort();
    FCGX_PutS("\r\n", out);
    FCGX_PutStr(body, (int)length, out);
    free(body);
}

static void slow(void)
{
    FCGX_PutS("X-Accel-Buffering: no\r\n\r\n", out);
    for (long piece = 1; piece <= number("pieces"); piece++) {
        FCGX_FPrintF(out, "piece %ld\n", piece);
        FCGX_FFlush(out);
        if (!wait_for(piece)) {
            FCGX_PutS("nobody has seen it\n", out);
            return;
        }
    }
}

static void headers(void)
{
    for (long header = 0; header < number("count"); header++) {
        FCGX_FPrintF(out, "X-Many-%ld: ", header);
        for (long i = 0; i < number("length"); i++)
            FCGX_PutChar('h', out);
        FCGX_PutS("\r\n", out);
    }
    FCGX_PutS("\r\nheaders\n", out);
}

static void with_stderr(void)
{
    FCGX_PutS("\r\n", out);
    for (int i = 0; i < 20; i++) {
        send_pattern(1000 * i, 1000);
        FCGX_FFlush(out);
        FCGX_FPrintF(err, "something on stderr %d\n", i);
        FCGX_FFlush(err);
    }
}

static void die(void)
{
    if (arg("size") != NULL) {
        FCGX_PutS("Content-Type: text/plain\r\n\r\n", out);
        send_pattern(0, number("size"));
        FCGX_FFlush(out);
    }
    kill(getpid(), SIGKILL);
}

int main(void)
{
    while (FCGX_Accept(&in, &out, &err, &env) >= 0) {
        const char *what = arg("do");
        if (what == NULL)
            abort();
        if (strcmp(what, "die") == 0)
            die();
        if (strcmp(what, "status") == 0)
            FCGX_FPrintF(out, "Status: %ld\r\n", number("code"));
        int streams = strcmp(what, "slow") == 0;
        FCGX_FPrintF(out, "Content-Type: %s\r\n", streams ? "text/event-stream" : "text/plain");
        if (strcmp(what, "page") == 0) {
            FCGX_PutS("\r\n", out);
            send_pattern(number("from"), number("size"));
        } else if (strcmp(what, "echo") == 0) {
            echo();
        } else if (streams) {
            slow();
        } else if (strcmp(what, "headers") == 0) {
            headers();
        } else if (strcmp(what, "stderr") == 0) {
            with_stderr();
        } else if (strcmp(what, "early") == 0) {
            FCGX_PutS("\r\nearly\n", out);
        } else {
            FCGX_PutS("\r\n", out);
        }
    }
    return 0;
}
