<?php
// Shows all that an application can see of a request, and of the settings it runs with.
function readable(mixed $value): mixed {
    if (is_array($value)) {
        return array_map('readable', $value);
    }
    return is_string($value) && !mb_is_text($value) ? 'bytes ' . bin2hex($value) : $value;
}

function mb_is_text(string $value): bool {
    return preg_match('//u', $value) === 1;
}

function sorted(array $values): object {
    ksort($values, SORT_STRING);
    return (object) readable($values);
}

function uploads(): array {
    return array_map(fn ($file) => [
        'name' => $file['name'],
        'type' => $file['type'],
        'size' => $file['size'],
        'error' => $file['error'],
        'hash' => $file['error'] === UPLOAD_ERR_OK ? md5_file($file['tmp_name']) : null,
    ], $_FILES);
}

header('Content-Type: application/json');
header('X-Script: ' . realpath(__FILE__));
header('X-Two: first', false);
header('X-Two: second', false);
setcookie('session', 'kept', ['httponly' => true]);
http_response_code((int) ($_GET['answer'] ?? 200));
// Who may come in, where a web server asks: the name goes back to it.
if (isset($_SERVER['HTTP_X_LOGIN'])) {
    header('X-User: ' . $_SERVER['HTTP_X_LOGIN']);
    http_response_code($_SERVER['HTTP_X_LOGIN'] === 'nobody' ? 401 : 200);
}
// A file that the web server is to send.
foreach (['X-Accel-Redirect', 'X-Sendfile'] as $header) {
    if (isset($_GET[$header])) {
        header("$header: {$_GET[$header]}");
    }
}

$body = file_get_contents('php://input');
echo json_encode([
    'SERVER' => sorted($_SERVER),
    'ENV' => sorted($_ENV),
    'GET' => sorted($_GET),
    'POST' => sorted($_POST),
    'COOKIE' => sorted($_COOKIE),
    'FILES' => sorted(uploads()),
    'headers' => sorted(getallheaders()),
    'body' => ['length' => strlen($body), 'hash' => md5($body)],
    'settings' => sorted(ini_get_all(null, false)),
    'script' => ['file' => realpath(__FILE__), 'directory' => getcwd(), 'includes' => get_included_files()],
], JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR);
