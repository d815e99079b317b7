<?php
// Prints every Page, and then every change. PAGESYNC_URL and PAGESYNC_KEY are set.
function api($path) {
    $http = ["header" => "Authorization: Bearer " . getenv("PAGESYNC_KEY"), "timeout" => 60];
    $answer = file_get_contents(getenv("PAGESYNC_URL") . "/v1/$path", false, stream_context_create(["http" => $http]));
    return $answer === false ? exit(1) : json_decode($answer, true);
}
$after = api("changes?after=newest")["cursor"];
for ($next = ""; $next !== null; $next = $part["next"]) {
    $part = api("pages?limit=500&after=$next");
    foreach ($part["pages"] as $page) echo $page["id"], " ", $page["name"], "\n";
}
while (true) {
    $answer = api("changes?wait=30s&after=$after");
    foreach ($answer["changes"] as $change) echo json_encode($change), "\n";
    $after = $answer["cursor"];
}
