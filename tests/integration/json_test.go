package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// jsonPage is the page whose commands are run.
const jsonPage = "../../docs/json.md"

// answerPatience is how long a command may take.
const answerPatience = 30 * time.Second

// example is commands of the page, and the JSON values that they print one after the other.
type example struct {
	commands [][]string
	want     []any
}

var fenced = regexp.MustCompile("(?s)```sh\n(.*?)```\n```json\n(.*?)```\n")

func readExamples(t *testing.T) (all []example) {
	page, err := os.ReadFile(jsonPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range fenced.FindAllStringSubmatch(string(page), -1) {
		commands, err := splitCommands(match[1])
		if err != nil {
			t.Fatalf("%v in:\n%s", err, match[1])
		}
		e := example{commands: commands}
		for d := json.NewDecoder(strings.NewReader(match[2])); ; {
			var v any
			err := d.Decode(&v)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in:\n%s", err, match[2])
			}
			e.want = append(e.want, v)
		}
		all = append(all, e)
	}
	if blocks := strings.Count(string(page), "```sh\n"); blocks != len(all) || blocks < 10 {
		t.Fatalf("%s has %d blocks of commands, of which %d have their answers beside them", jsonPage, blocks, len(all))
	}
	return all
}

// splitCommands splits lines into commands and those into words as a shell does, as far as the page needs it.
func splitCommands(text string) (commands [][]string, err error) {
	var words []string
	var word strings.Builder
	begun, quote := false, rune(0)
	endWord := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	for _, r := range strings.ReplaceAll(text, "\\\n", " ") {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\n':
			endWord()
			if r == '\n' && len(words) > 0 {
				commands, words = append(commands, words), nil
			}
		case strings.ContainsRune("\\$`|&;<>(){}*?#~", r):
			return nil, fmt.Errorf("the test does not know what a shell makes of %q", r)
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	return commands, nil
}

// memory is what later commands take from earlier answers.
type memory struct{ token, member string }

func (m *memory) fill(args []string, endpoint string) []string {
	replacer := strings.NewReplacer("localhost:2379", endpoint, "TOKEN", m.token, "MEMBER", m.member)
	filled := make([]string, len(args))
	for i, a := range args {
		filled[i] = replacer.Replace(a)
	}
	return filled
}

func (m *memory) learn(answer any) {
	object, _ := answer.(map[string]any)
	if token, ok := object["token"].(string); ok {
		m.token = token
	}
	if member, ok := object["member"].(map[string]any); ok {
		m.member, _ = member["ID"].(string)
	}
}

// request makes of a curl command what curl would send.
func request(ctx context.Context, args []string) (*http.Request, error) {
	var url, body string
	headers := http.Header{"Accept": {"*/*"}}
	verb := http.MethodGet
	for i := 1; i < len(args); i++ {
		switch arg := args[i]; arg {
		case "-N":
		case "-d", "-H":
			if i++; i == len(args) {
				return nil, fmt.Errorf("%s has no value", arg)
			}
			if arg == "-d" {
				// curl takes line ends out of what it sends.
				verb, body = http.MethodPost, strings.ReplaceAll(args[i], "\n", "")
				headers.Set("Content-Type", "application/x-www-form-urlencoded")
				continue
			}
			name, value, _ := strings.Cut(args[i], ":")
			headers.Set(name, strings.TrimSpace(value))
		default:
			if strings.HasPrefix(arg, "-") || url != "" {
				return nil, fmt.Errorf("the test does not know %q", arg)
			}
			url = arg
		}
	}
	r, err := http.NewRequestWithContext(ctx, verb, url, strings.NewReader(body))
	if err == nil {
		r.Header = headers
	}
	return r, err
}

// sendLikeCurl runs a command without curl. What it returns is closed to end a stream.
func sendLikeCurl(ctx context.Context, args []string) (io.ReadCloser, error) {
	r, err := request(ctx, args)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// running is a curl process; closing it ends it.
type running struct {
	io.Reader
	end func() error
}

func (r running) Close() error { return r.end() }

func runCurl(ctx context.Context, args []string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, args[0], append([]string{"-sS"}, args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return running{out, func() error {
		cancel()
		_ = cmd.Wait() // it was killed, or has ended
		return nil
	}}, nil
}

// matches reports whether an answer is as shown, where "..." stands for anything.
func matches(want, got any) bool {
	if want == "..." {
		return got != nil
	}
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok || len(object) != len(want) {
			return false
		}
		for name, value := range want {
			if !matches(value, object[name]) {
				return false
			}
		}
		return true
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return false
		}
		for i := range want {
			if !matches(want[i], list[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(want, got)
}

// run runs the page against a server. The last command of an example prints all answers that are left, the others
// one each.
func run(t *testing.T, s *harness.Server, send func(context.Context, []string) (io.ReadCloser, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*answerPatience)
	defer cancel()
	var known memory
	for _, e := range readExamples(t) {
		want := e.want
		for i, command := range e.commands {
			n := 1
			if i == len(e.commands)-1 {
				n = len(want)
			}
			args := known.fill(command, s.Endpoint())
			out, err := send(ctx, args)
			if err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			answers := json.NewDecoder(out)
			for range n {
				var got any
				if err := answers.Decode(&got); err != nil {
					t.Fatalf("%q: %v", args, err)
				}
				if !matches(want[0], got) {
					w, _ := json.Marshal(want[0])
					g, _ := json.Marshal(got)
					t.Errorf("%q\nis said to print %s\nand printed      %s", args, w, g)
				}
				known.learn(got)
				want = want[1:]
			}
			if err := out.Close(); err != nil {
				t.Errorf("%q: %v", args, err)
			}
		}
	}
}

// TestJSONPage runs the commands of docs/json.md as curl would, and against etcd too: what the page says is the protocol's.
func TestJSONPage(t *testing.T) {
	senders := map[string]func(context.Context, []string) (io.ReadCloser, error){"as curl": sendLikeCurl}
	if _, err := exec.LookPath("curl"); err == nil {
		senders["with curl"] = runCurl
	}
	for _, kind := range []harness.Kind{harness.Dolmen, harness.Etcd} {
		for name, send := range senders {
			t.Run(fmt.Sprintf("%s %s", kind, name), func(t *testing.T) {
				t.Parallel()
				run(t, harness.Start(t, kind, harness.Options{NoFsync: true, Args: []string{"--bcrypt-cost=4"}}), send)
			})
		}
	}
}

func TestSplitCommands(t *testing.T) {
	got, err := splitCommands("curl a -d '{\"b\": 1,\n 2}' \\\n  -H \"c: d\"\n\nsecond ''\n")
	if want := [][]string{{"curl", "a", "-d", "{\"b\": 1,\n 2}", "-H", "c: d"}, {"second", ""}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, text := range []string{"curl 'a\n", "curl $a\n", "curl a | b\n"} {
		if got, err := splitCommands(text); err == nil {
			t.Errorf("%q gives %q", text, got)
		}
	}
}
