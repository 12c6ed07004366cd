package compat

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// jsonText returns a JSON text in a form that does not depend on the writer's spaces and order of fields. Sizes and
// indexes, which differ, keep only that they are there.
func jsonText(text string) string {
	var v any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return fmt.Sprintf("no JSON: %q", text)
	}
	if m, ok := v.(map[string]any); ok {
		for _, name := range []string{"dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex", "hash"} {
			if m[name] != nil && m["raftTerm"] != nil {
				m[name] = "some"
			}
		}
		if members, ok := m["members"].([]any); ok { // ascending by id
			slices.SortFunc(members, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	// protobuf puts other and more spaces into texts, chosen per binary.
	return strings.NewReplacer("\u00a0", " ", "  ", " ").Replace(string(b))
}

// send records an HTTP request and its answer. Headers are "name: value".
func (r *Recorder) send(verb, path, body string, headers ...string) {
	r.notef("> %s %s %.200s %v", verb, path, body, headers)
	resp, err := r.roundTrip(r.ctx, verb, path, strings.NewReader(body), headers...)
	if err != nil {
		r.notef("! %v", err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.notef("! %v", err)
	}
	shown := r.rename(string(text))
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		shown = jsonText(shown)
	}
	r.notef("< %d %q %q %s", resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("Allow"), shown)
}

func (r *Recorder) roundTrip(ctx context.Context, verb, path string, body io.Reader, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, verb, "http://"+r.server.Endpoint()+path, body)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	return http.DefaultTransport.RoundTrip(req) // follows no redirects
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// post is send of many POSTs, pairs of path and body.
func (r *Recorder) post(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		r.send(http.MethodPost, pairs[i], pairs[i+1])
	}
}

func TestGatewayKV(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		k, v := b64("k"), b64("v")
		r.post(
			"/v3/kv/put", `{"key":"`+k+`","value":"`+v+`"}`,
			"/v3/kv/range", `{"key":"`+k+`"}`,
			"/v3/kv/range", `{"key":"AA==","range_end":"AA==","limit":"1","keys_only":true,"sort_order":"DESCEND","sort_target":"MOD"}`,
			"/v3/kv/range", `{"key":"AA==","rangeEnd":"AA==","limit":1,"sort_order":2,"count_only":true}`,
			"/v3/kv/put", `{"key":"`+k+`","value":"`+v+`","prev_kv":true,"nonsense":{"a":[1]}}`,
			"/v3/kv/txn", `{"compare":[{"key":"`+k+`","target":"VERSION","version":"2","result":"EQUAL"}],"success":[{"requestPut":{"key":"`+k+`"}},
				{"request_range":{"key":"`+k+`"}}],"failure":[{"request_delete_range":{"key":"`+k+`"}}]}`,
			"/v3/kv/deleterange", `{"key":"`+k+`","prev_kv":true}`,
			"/v3/kv/compaction", `{"revision":"3","physical":true}`,
			"/v3/kv/range", `{"key":"`+k+`","revision":2}`,
			"/v3/kv/range", `{"key":"`+k+`","revision":200}`,
			"/v3/kv/put", `{}`, "/v3/kv/put", ``, "/v3/kv/put", `{"key":"`+k+`","lease":"99"}`,
			"/v3/kv/put", `{"key":"not base64!"}`, "/v3/kv/put", `{"key":`, "/v3/kv/put", `nonsense`, "/v3/kv/put", `[]`,
			"/v3/kv/put", `{"key":7}`, "/v3/kv/put", `{"key":"`+k+`","lease":"x"}`, "/v3/kv/range", `{"key":"`+k+`","sort_order":"SIDEWAYS"}`,
			"/v3/kv/put", `{"key":"`+k+`"} {"key":"`+k+`"}`, "/v3/kv/range", `{"key":"`+k+`","serializable":"yes"}`,
			"/v3/kv/put", `{"key":"`+k+`","value":"`+b64(strings.Repeat("x", 1572864))+`"}`,
			"/v3/kv/put", `{"key":"`+k+`","value":"`+b64(strings.Repeat("x", 4<<20))+`"}`,
			"/v3beta/kv/range", `{"key":"`+k+`"}`,
			"/v3/kv/lease/leases", `{}`, "/v3/kv/rangestream", `{}`, "/v3/nothing", `{}`, "/v3/kv", `{}`, "/v3", `{}`, "/v3/", `{}`, "/v3/kv/put/", `{}`,
		)
		for _, verb := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch} {
			r.send(verb, "/v3/kv/put", `{}`)
			r.send(verb, "/v3/nothing", `{}`)
		}
		for _, header := range []string{"Content-Type: text/plain", "Content-Type: application/json", "Accept: text/html",
			"Origin: http://example.com", "Grpc-Timeout: 1S", "Grpc-Timeout: x", "Grpc-Metadata-hasleader: true", "Grpc-Timeout: 1n"} {
			r.send(http.MethodPost, "/v3/kv/range", `{"key":"`+k+`"}`, header)
		}
	})
}

func TestGatewayServices(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.post(
			"/v3/lease/grant", `{"TTL":1000,"ID":7}`, "/v3/lease/grant", `{"TTL":"1000","ID":"7"}`, "/v3/lease/grant", `{"TTL":"9000000001"}`,
			"/v3/kv/put", `{"key":"aw==","lease":7}`, "/v3/lease/leases", `{}`, "/v3/kv/lease/leases", ``,
			"/v3/kv/lease/timetolive", `{"ID":8}`, "/v3/lease/timetolive", `{"ID":"8","keys":true}`,
			"/v3/lease/keepalive", `{"ID":8}`, "/v3/kv/lease/revoke", `{"ID":8}`, "/v3/lease/revoke", `{"ID":"7"}`,
			"/v3/cluster/member/list", `{}`, "/v3/cluster/member/list", `{"linearizable":true}`, "/v3/cluster/member/add", `{}`,
			"/v3/cluster/member/add", `{"peerURLs":["nonsense"]}`, "/v3/cluster/member/remove", `{"ID":"99"}`,
			"/v3/cluster/member/update", `{"ID":"99","peerURLs":["http://127.0.0.2:1"]}`, "/v3/cluster/member/promote", `{"ID":"99"}`,
			"/v3/maintenance/status", `{}`, "/v3/maintenance/alarm", `{}`, "/v3/maintenance/alarm", `{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}`,
			"/v3/kv/put", `{"key":"aw=="}`, "/v3/maintenance/status", ``, "/v3/maintenance/alarm", `{"action":"DEACTIVATE","memberID":"5","alarm":1}`,
			"/v3/maintenance/defragment", `{}`, "/v3/maintenance/hashkv", `{"revision":"99"}`, "/v3/maintenance/hashkv", `{}`,
			"/v3/maintenance/transfer-leadership", `{"targetID":"99"}`, "/v3/maintenance/downgrade", `{"version":"3.7"}`,
			"/v3/maintenance/downgrade", `{"action":"VALIDATE","version":"3.6"}`, "/v3/maintenance/downgrade", `{"action":"CANCEL"}`,
			"/v3/lease/grant", `{"TTL":1000,"ID":10}`, "/v3/lock/lock", `{"name":"YQ==","lease":10}`, "/v3/lock/unlock", `{"key":"YS9h"}`,
			"/v3/lock/lock", `{"name":"YQ==","lease":11}`, "/v3/lock/unlock", `{}`,
			"/v3/election/leader", `{"name":"ZQ=="}`, "/v3/election/campaign", `{"name":"ZQ==","lease":10,"value":"djE="}`,
			"/v3/election/leader", `{"name":"ZQ=="}`, "/v3/election/proclaim", `{}`,
			"/v3/election/proclaim", `{"leader":{"name":"ZQ==","key":"ZS9h","rev":"99","lease":"10"},"value":"djI="}`,
			"/v3/election/resign", `{"leader":{"name":"ZQ==","key":"ZS9h","rev":"99","lease":"10"}}`,
		)
	})
}

func TestGatewayUsers(t *testing.T) {
	compare(t, harness.Options{Args: []string{"--bcrypt-cost=4"}}, func(r *Recorder) {
		r.post("/v3/auth/status", `{}`, "/v3/auth/authenticate", `{"name":"root","password":"p"}`,
			"/v3/auth/user/add", `{"name":"root","password":"p"}`, "/v3/auth/user/add", `{"name":"root","password":"p"}`, "/v3/auth/user/add", `{}`,
			"/v3/auth/user/add", `{"name":"u","password":"p"}`, "/v3/auth/role/add", `{"name":"root"}`, "/v3/auth/role/add", `{"name":"r"}`,
			"/v3/auth/role/grant", `{"name":"r","perm":{"permType":"READWRITE","key":"YQ=="}}`, "/v3/auth/role/get", `{"role":"r"}`,
			"/v3/auth/user/grant", `{"user":"root","role":"root"}`, "/v3/auth/user/grant", `{"user":"u","role":"r"}`, "/v3/auth/user/get", `{"name":"u"}`,
			"/v3/auth/user/list", `{}`, "/v3/auth/role/list", `{}`, "/v3/auth/enable", `{}`, "/v3/auth/status", `{}`)
		r.post("/v3/kv/put", `{"key":"YQ=="}`, "/v3/auth/authenticate", `{"name":"u","password":"wrong"}`)
		for _, name := range []string{"u", "root"} {
			token := r.token(name)
			for _, header := range []string{"Authorization: " + token, "Authorization: Bearer " + token, "Grpc-Metadata-Token: " + token, "token: " + token,
				"Authorization: nonsense"} {
				r.masked(token, func() {
					r.send(http.MethodPost, "/v3/kv/put", `{"key":"YQ=="}`, header)
					r.send(http.MethodPost, "/v3/kv/put", `{"key":"Yg=="}`, header)
					r.send(http.MethodPost, "/v3/cluster/member/list", `{}`, header)
					r.send(http.MethodPost, "/v3/lock/lock", `{"name":"Yg==","lease":"9"}`, header)
				})
			}
		}
	})
}

// token signs a user in through the gateway.
func (r *Recorder) token(user string) string {
	resp, err := r.roundTrip(r.ctx, http.MethodPost, "/v3/auth/authenticate", strings.NewReader(`{"name":"`+user+`","password":"p"}`))
	if err != nil {
		r.fatalf("sign in: %v", err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		r.fatalf("sign in: %v, %+v", err, answer)
	}
	return answer.Token
}

// masked hides a text in what is recorded meanwhile.
func (r *Recorder) masked(text string, record func()) {
	from := len(r.lines)
	record()
	for i := range r.lines[from:] {
		r.lines[from+i] = strings.ReplaceAll(r.lines[from+i], text, "TOKEN")
	}
}

// TestGatewayWatch reads a stream line by line while more is put.
func TestGatewayWatch(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.Do(put("a", "1"))
		ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
		defer cancel()
		// The request ends there and the stream does not: HTTP/1 servers answer when they have read it.
		resp, err := r.roundTrip(ctx, http.MethodPost, "/v3/watch",
			strings.NewReader(`{"create_request":{"key":"YQ==","start_revision":"1","prev_kv":true}}`))
		if err != nil {
			r.fatalf("watch: %v", err)
		}
		defer resp.Body.Close()
		r.notef("< %d %q", resp.StatusCode, resp.Header.Get("Content-Type"))
		lines := bufio.NewScanner(resp.Body)
		next := func() {
			if !lines.Scan() {
				r.notef("! the stream has ended: %v", lines.Err())
				return
			}
			r.notef("< %s", jsonText(r.rename(lines.Text())))
		}
		next()
		next()
		r.Do(put("a", "2"))
		next()
		r.Do(del("a", ""))
		next()
	})
}

// TestGatewayStreamErrors: what ends a stream before it has begun.
func TestGatewayStreams(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.post("/v3/lease/grant", `{"TTL":1000,"ID":7}`, "/v3/lease/keepalive", `{"ID":7}`+"\n"+`{"ID":"8"}`, "/v3/lease/keepalive", ``)
		r.send(http.MethodGet, "/v3/watch", ``)
		r.send(http.MethodGet, "/v3/maintenance/snapshot", ``)
	})
}

func TestGatewayOff(t *testing.T) {
	compare(t, harness.Options{Args: []string{"--enable-grpc-gateway=false"}}, func(r *Recorder) {
		r.post("/v3/kv/range", `{"key":"YQ=="}`, "/v3beta/kv/range", `{}`)
		r.send(http.MethodGet, "/v3/watch", ``)
	})
}

func TestGatewayHosts(t *testing.T) {
	compare(t, harness.Options{Args: []string{"--host-whitelist=127.0.0.1", "--cors=http://a.example:1"}}, func(r *Recorder) {
		for _, origin := range []string{"http://a.example:1", "http://b.example:1"} {
			for _, verb := range []string{http.MethodPost, http.MethodOptions} {
				resp, err := r.roundTrip(r.ctx, verb, "/v3/kv/range", strings.NewReader(`{"key":"YQ=="}`), "Origin: "+origin)
				if err != nil {
					r.fatalf("%v", err)
				}
				resp.Body.Close()
				r.notef("< %d %v", resp.StatusCode, resp.Header.Values("Access-Control-Allow-Origin"))
			}
		}
	})
}

// TestGatewayWebsocket watches over a websocket, as nobody and by the two ways in which a page hands over a token.
func TestGatewayWebsocket(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.Do(put("a", "1"))
		for _, options := range []*websocket.DialOptions{nil, {Subprotocols: []string{"Bearer", "token"}},
			{HTTPHeader: http.Header{"Cookie": {"token=token"}}}} {
			ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
			conn, resp, err := websocket.Dial(ctx, "ws://"+r.server.Endpoint()+"/v3/watch", options) //nolint:bodyclose // the library has closed it
			if err != nil {
				r.fatalf("dial: %v", err)
			}
			r.notef("< %d %q", resp.StatusCode, resp.Header.Get("Sec-Websocket-Protocol"))
			for _, request := range []string{
				`{"create_request":{"key":"YQ==","start_revision":"1"}}`, "", `{"create_request":{"key":"Yg==","watch_id":"7"}}`,
				`{"cancel_request":{"watch_id":7}}`, `{"create_request":{"key":"YQ==","watch_id":"0","start_revision":1000,"range_end":"AA=="}}`,
			} {
				if request != "" {
					if err := conn.Write(ctx, websocket.MessageText, []byte(request)); err != nil {
						r.notef("! %v", err)
					}
				}
				kind, answer, err := conn.Read(ctx)
				if err != nil {
					r.notef("! %v", err)
					break
				}
				r.notef("< %v %s", kind, jsonText(r.rename(string(answer))))
			}
			conn.CloseNow()
			cancel()
		}
	})
}
