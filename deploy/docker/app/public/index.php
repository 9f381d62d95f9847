<?php
header('Content-Type: text/plain');
echo 'Served by ', gethostname(), "\n";
