// What README.md says, in Go with net/http/fcgi, on the socket that is open as number 0.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/fcgi"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type answer struct {
	http.ResponseWriter
	request *http.Request
}

func (a answer) text(name string) string { return a.request.URL.Query().Get(name) }

func (a answer) number(name string) int64 {
	number, err := strconv.ParseInt(a.text(name), 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	return number
}

func (a answer) pattern(from, size int64) {
	file, err := os.Open(a.text("dir") + "/pattern.bin")
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	io.Copy(a, io.NewSectionReader(file, from, size))
}

func (a answer) flush() { a.ResponseWriter.(http.Flusher).Flush() }

func waitFor(path string) bool {
	for i := 0; i < 5000; i++ {
		if _, err := os.Stat(path); err == nil {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

func (a answer) slow() {
	a.Header().Set("Content-Type", "text/event-stream")
	a.Header().Set("X-Accel-Buffering", "no")
	for piece := int64(1); piece <= a.number("pieces"); piece++ {
		fmt.Fprintf(a, "piece %d\n", piece)
		a.flush()
		if !waitFor(fmt.Sprintf("%s/seen-%d", a.text("dir"), piece)) {
			fmt.Fprintf(a, "nobody has seen it\n")
			return
		}
	}
}

func serve(writer http.ResponseWriter, request *http.Request) {
	a := answer{writer, request}
	a.Header().Set("Content-Type", "text/plain")
	switch a.text("do") {
	case "page":
		a.pattern(a.number("from"), a.number("size"))
	case "echo":
		body, _ := io.ReadAll(request.Body)
		a.Write(body)
	case "slow":
		a.slow()
	case "status":
		a.WriteHeader(int(a.number("code")))
	case "headers":
		for i := int64(0); i < a.number("count"); i++ {
			a.Header().Set(fmt.Sprintf("X-Many-%d", i), strings.Repeat("h", int(a.number("length"))))
		}
		fmt.Fprintln(a, "headers")
	case "early":
		fmt.Fprintln(a, "early")
	case "die":
		if a.text("size") != "" {
			a.pattern(0, a.number("size"))
			a.flush()
		}
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}

func main() {
	log.Fatal(fcgi.Serve(nil, http.HandlerFunc(serve)))
}
