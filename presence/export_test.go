package presence

import (
	"context"
	"time"
)

// Kept counts the users of whom anything is remembered, and those on the board.
func Kept(e *Engine) (users, board int) {
	for i := range e.board {
		sh := &e.board[i]
		sh.mu.Lock()
		board += len(sh.users)
		sh.mu.Unlock()
	}
	return e.Stats().Users, board
}

// Carried counts the devices that moved from other nodes, and have not connected yet.
func Carried(e *Engine) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.carried)
}

// ReleaseDead releases nodes that were silent for so long.
func ReleaseDead(e *Engine, silent time.Duration) error {
	dead, err := e.o.Store.ListDeadNodes(context.Background(), e.self(), silent)
	if err != nil {
		return err
	}
	return e.release(context.Background(), dead)
}
