package concurrency_test

import (
	"context"
	"fmt"
	"log"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/concurrency"
)

// must ends the example at an error.
func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// open opens a session on a client of its own, as a process does when it starts.
func open(ctx context.Context) (s *concurrency.Session, closeAll func()) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	must(err)
	s, err = concurrency.NewSession(ctx, client, 10*time.Second)
	must(err)
	return s, func() {
		must(s.Close(ctx))
		must(client.Close())
	}
}

// A session ends when its lease does, and says why.
func ExampleSession() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	fmt.Println(s.Context().Err())
	closeAll()
	<-s.Context().Done()
	fmt.Println(context.Cause(s.Context()))
	// Output:
	// <nil>
	// the session is closed
}

// Work under a lock takes the context of the hold, and writes with its guard: when the lock is lost the
// work is cancelled, and a write that is on its way is refused.
func ExampleMutex() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	defer closeAll()
	held, err := concurrency.NewMutex(s, "example/mutex").Lock(ctx)
	must(err)

	resp, err := s.Client().Txn(held.Context()).
		If(held.Guard()).
		Then(clientv3.OpPut("example/data", "mine")).
		Commit()
	must(err)
	fmt.Println("written:", resp.Succeeded)

	must(held.Release(ctx))
	fmt.Println(context.Cause(held.Context()))
	// Output:
	// written: true
	// released
}

// A resource outside of the store refuses the writes of a holder that does not know yet that it has lost
// the lock, by its token.
func ExampleHold_Token() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	defer closeAll()
	var greatest int64 // kept by the resource
	write := func(token int64, data string) {
		if token < greatest {
			fmt.Println("refused:", data)
			return
		}
		greatest = token
		fmt.Println("written:", data)
	}

	lock := concurrency.NewMutex(s, "example/fencing")
	first, err := lock.Lock(ctx)
	must(err)
	write(first.Token(), "a")
	must(first.Release(ctx)) // or its session is lost, unnoticed

	second, err := lock.Lock(ctx)
	must(err)
	write(second.Token(), "b")
	write(first.Token(), "late")
	must(second.Release(ctx))
	// Output:
	// written: a
	// written: b
	// refused: late
}

func ExampleRWMutex() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	defer closeAll()
	lock := concurrency.NewRWMutex(s, "example/rwmutex")
	one, err := lock.RLock(ctx)
	must(err)
	two, err := lock.RLock(ctx)
	must(err)
	_, err = lock.TryLock(ctx)
	fmt.Println(err)
	must(one.Release(ctx))
	must(two.Release(ctx))
	writer, err := lock.Lock(ctx)
	must(err)
	fmt.Println("writing")
	must(writer.Release(ctx))
	// Output:
	// try to lock "example/rwmutex/" for writing: held by another
	// writing
}

// Two may work at a time.
func ExampleSemaphore() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	defer closeAll()
	slots, err := concurrency.NewSemaphore(s, "example/semaphore", 2)
	must(err)
	one, err := slots.Acquire(ctx)
	must(err)
	two, err := slots.Acquire(ctx)
	must(err)
	_, err = slots.TryAcquire(ctx)
	fmt.Println(err)
	must(one.Release(ctx))
	three, err := slots.Acquire(ctx)
	must(err)
	fmt.Println("one out, one in")
	must(two.Release(ctx))
	must(three.Release(ctx))
	// Output:
	// try to acquire "example/semaphore/slot/": held by another
	// one out, one in
}

// Others wait until the preparation is over, or whoever prepares is gone.
func ExampleBarrier() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	defer closeAll()
	barrier := concurrency.NewBarrier(s, "example/barrier")
	preparing, err := barrier.Raise(ctx)
	must(err)

	waited := make(chan error)
	go func() { waited <- barrier.Wait(ctx) }()

	fmt.Println("prepared")
	must(preparing.Release(ctx))
	must(<-waited)
	fmt.Println("go")
	// Output:
	// prepared
	// go
}

// Two participants begin together and end together.
func ExampleDoubleBarrier() {
	ctx := context.Background()
	participate := func(done chan<- int64) {
		s, closeAll := open(ctx)
		defer closeAll()
		barrier, err := concurrency.NewDoubleBarrier(s, "example/double-barrier", 2)
		must(err)
		entry, err := barrier.Enter(ctx)
		must(err)
		must(entry.Leave(ctx))
		done <- entry.Token()
	}
	done := make(chan int64)
	go participate(done)
	go participate(done)
	one, other := <-done, <-done
	fmt.Println("in the same round:", one == other)
	// Output: in the same round: true
}

func ExampleElection() {
	ctx := context.Background()
	s, closeAll := open(ctx)
	defer closeAll()
	election := concurrency.NewElection(s, "example/election")
	term, err := election.Campaign(ctx, "host-1:8080")
	must(err)
	leader, err := election.Leader(ctx)
	must(err)
	fmt.Println(leader.Value, leader.Token == term.Token())
	must(term.Resign(ctx))
	_, err = election.Leader(ctx)
	fmt.Println(err)
	// Output:
	// host-1:8080 true
	// leader of "example/election/": nobody is elected
}

// Observe is how others follow the leader. The channel is closed when the context ends.
func ExampleElection_Observe() {
	ctx, cancel := context.WithCancel(context.Background())
	s, closeAll := open(context.Background())
	defer closeAll()
	election := concurrency.NewElection(s, "example/observe")
	leaders, err := election.Observe(ctx)
	must(err)
	fmt.Printf("leader: %q\n", (<-leaders).Value)
	term, err := election.Campaign(ctx, "host-1:8080")
	must(err)
	fmt.Printf("leader: %q\n", (<-leaders).Value)
	must(term.Resign(ctx))
	fmt.Printf("leader: %q\n", (<-leaders).Value)
	cancel()
	_, open := <-leaders
	fmt.Println("open:", open)
	// Output:
	// leader: ""
	// leader: "host-1:8080"
	// leader: ""
	// open: false
}
