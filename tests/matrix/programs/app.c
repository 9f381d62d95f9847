/* What README.md says, in C with libfcgi. Started without a FastCGI socket it is a CGI program. */
#include <fcgi_stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const PLAIN = "Content-Type: text/plain\r\n";

/* The value of `name` in the query, or NULL. It stays until the next call but seven. */
static const char *arg(const char *name)
{
    static char values[8][512];
    static unsigned turn;
    const char *query = getenv("QUERY_STRING");
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
        fwrite(piece, 1, count, stdout);
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
    size_t room = 65536, length = 0, count;
    char *body = malloc(room);
    while (body != NULL && (count = fread(body + length, 1, room - length, stdin)) > 0) {
        length += count;
        if (length == room)
            body = realloc(body, room *= 2);
    }
    if (body == NULL)
        abort();
    printf("%s\r\n", PLAIN);
    fwrite(body, 1, length, stdout);
    free(body);
}

static void slow(void)
{
    printf("Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\r\n");
    for (long piece = 1; piece <= number("pieces"); piece++) {
        printf("piece %ld\n", piece);
        fflush(stdout);
        if (!wait_for(piece)) {
            printf("nobody has seen it\n");
            return;
        }
    }
}

static void headers(void)
{
    printf("%s", PLAIN);
    for (long header = 0; header < number("count"); header++) {
        printf("X-Many-%ld: ", header);
        for (long i = 0; i < number("length"); i++)
            putchar('h');
        printf("\r\n");
    }
    printf("\r\nheaders\n");
}

static void with_stderr(void)
{
    printf("%s\r\n", PLAIN);
    for (int i = 0; i < 20; i++) {
        send_pattern(1000 * i, 1000);
        fflush(stdout);
        fprintf(stderr, "something on stderr %d\n", i);
        fflush(stderr);
    }
}

static void die(void)
{
    if (arg("size") != NULL) {
        printf("%s\r\n", PLAIN);
        send_pattern(0, number("size"));
        fflush(stdout);
    }
    kill(getpid(), SIGKILL);
}

static void answer(const char *what)
{
    if (strcmp(what, "page") == 0) {
        printf("%s\r\n", PLAIN);
        send_pattern(number("from"), number("size"));
    } else if (strcmp(what, "echo") == 0) {
        echo();
    } else if (strcmp(what, "slow") == 0) {
        slow();
    } else if (strcmp(what, "status") == 0) {
        printf("Status: %ld\r\n%s\r\n", number("code"), PLAIN);
    } else if (strcmp(what, "headers") == 0) {
        headers();
    } else if (strcmp(what, "stderr") == 0) {
        with_stderr();
    } else if (strcmp(what, "early") == 0) {
        printf("%s\r\nearly\n", PLAIN);
    } else if (strcmp(what, "die") == 0) {
        die();
    } else {
        abort();
    }
}

int main(void)
{
    while (FCGI_Accept() >= 0) {
        const char *what = arg("do");
        if (what == NULL)
            abort();
        answer(what);
    }
    return 0;
}
