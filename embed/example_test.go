package embed_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/dolmen-io/dolmen/embed"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "dolmen")
	if err != nil {
		log.Fatal(err)
	}
	cfg := embed.NewConfig()
	cfg.DataDir = dir
	member, err := embed.Start(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	client, err := member.Client()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Put(ctx, "greeting", "hello"); err != nil {
		log.Fatal(err)
	}
	resp, err := client.Get(ctx, "greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", resp.Kvs[0].Key, resp.Kvs[0].Value)
	if err := client.Close(); err != nil {
		log.Fatal(err)
	}
	if err := member.Close(ctx); err != nil {
		log.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		log.Fatal(err)
	}
	// Output: greeting: hello
}
