<?php
// What README.md says, in PHP.

function number(string $name): int
{
    return (int) ($_GET[$name] ?? 0);
}

function send_pattern(int $from, int $size): void
{
    $file = fopen("{$_GET['dir']}/pattern.bin", 'r');
    fseek($file, $from);
    for ($left = $size; $left > 0; $left -= strlen($piece)) {
        $piece = fread($file, min($left, 65536));
        echo $piece;
    }
}

function wait_for(string $file): bool
{
    for ($i = 0; $i < 5000 && !file_exists($file); $i++) {
        usleep(1000);
        clearstatcache();
    }
    return file_exists($file);
}

header('Content-Type: text/plain');
switch ($_GET['do']) {
    case 'page':
        send_pattern(number('from'), number('size'));
        break;
    case 'echo':
        echo file_get_contents('php://input');
        break;
    case 'slow':
        header('X-Accel-Buffering: no');
        header('Content-Type: text/event-stream');
        for ($i = 1; $i <= number('pieces'); $i++) {
            echo "piece $i\n";
            flush();
            if (!wait_for("{$_GET['dir']}/seen-$i")) {
                exit("nobody has seen it\n");
            }
        }
        break;
    case 'status':
        http_response_code(number('code'));
        break;
    case 'headers':
        for ($i = 0; $i < number('count'); $i++) {
            header("X-Many-$i: " . str_repeat('h', number('length')));
        }
        echo "headers\n";
        break;
    case 'stderr':
        for ($i = 0; $i < 20; $i++) {
            send_pattern(1000 * $i, 1000);
            flush();
            error_log("something on stderr $i");
        }
        break;
    case 'early':
        echo "early\n";
        break;
    case 'die':
        if (isset($_GET['size'])) {
            send_pattern(0, number('size'));
            flush();
        }
        exec('kill -KILL ' . getmypid());
        sleep(10);
        break;
    case 'finish':
        echo "finished\n";
        fastcgi_finish_request();
        wait_for("{$_GET['dir']}/gate");
        file_put_contents("{$_GET['dir']}/ended", 'x', FILE_APPEND);
        break;
}
