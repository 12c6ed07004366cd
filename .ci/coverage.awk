# Statement coverage by package, from profiles of go test: "package/file.go:from,to statements count".
# A package whose share is not above `least` percent makes the exit status 1.

FNR == 1 { next } # the mode

{
	split($1, place, ":")
	package = place[1]
	sub(/\/[^\/]*$/, "", package)
	all[package] += $2
	if ($3 > 0) run[package] += $2
}

END {
	for (package in all) {
		share = 100 * run[package] / all[package]
		verdict = "ok  "
		if (share <= least) {
			verdict = "LOW "
			low++
		}
		printf "%s %5.1f%% %s\n", verdict, share, package | "sort -k3"
	}
	close("sort -k3")
	if (low) {
		printf "%d packages are not above %d%%: test what they do\n", low, least
		exit 1
	}
}
