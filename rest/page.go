package rest

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// Paging is embedded in the input of every list. (huma ignores what is not exported.)
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"The maximum number of items."`
	Cursor string `query:"cursor" doc:"nextCursor of the previous page; none: the first page."`
}

// Page is one page of a list.
type Page[T any] struct {
	Data       []T     `json:"data" nullable:"false"`
	NextCursor *string `json:"nextCursor" doc:"The cursor of the next page; null: this is the last page." example:"AXUx"`
}

// pageOf makes a page of what was found; next is "" on the last one.
func pageOf[T, R any](found []T, show func(*T) R, next string) *body[Page[R]] {
	p := Page[R]{Data: mapped(found, show)}
	if next != "" {
		p.NextCursor = &next
	}
	return &body[Page[R]]{p}
}

// mapped returns what f makes of each item; never nil.
func mapped[T, R any](list []T, f func(*T) R) []R {
	out := make([]R, 0, len(list))
	for i := range list {
		out = append(out, f(&list[i]))
	}
	return out
}

// list describes a paged list: T is an item, R how it is shown, and K the key after which
// the next page begins.
type list[T, K, R any] struct {
	kind  cursorKind
	key   func(*T) []byte
	parse func([]byte) (K, bool)
	show  func(*T) R
}

// page answers with the page that in asks for. read is asked for one item more than the
// page has, which tells whether there are more; after is zero for the first page.
func (l list[T, K, R]) page(
	ctx context.Context, in *Paging, scope string, read func(ctx context.Context, me chat.ID, after K, limit int) ([]T, error),
) (*body[Page[R]], error) {
	me := principal(ctx).UserID
	after, err := resume(in, me, scope, l.kind, l.parse)
	if err != nil {
		return nil, err
	}
	found, err := read(ctx, me, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	var next string
	if len(found) > in.Limit {
		found = found[:in.Limit]
		next = encodeCursor(l.kind, me, scope, l.key(&found[in.Limit-1]))
	}
	return pageOf(found, l.show, next), nil
}

// resume returns the key that a page begins after; zero: it is the first.
func resume[K any](in *Paging, user chat.ID, scope string, kind cursorKind, parse func([]byte) (K, bool)) (after K, err error) {
	if in.Cursor == "" {
		return after, nil
	}
	_, key, err := decodeCursor(in.Cursor, user, scope, kind)
	if err != nil {
		return after, err
	}
	after, ok := parse(key)
	if !ok {
		return after, badCursor()
	}
	return after, nil
}
