// Following what happens: server-sent events while the page is seen, asking every few seconds where there are none.

const ASK_EVERY = 3000;
const TRY_STREAM_AGAIN = 30000;

// follow("/v1/events", {job, log, end}, poll, show)
//   job(object), log(entry): what the stream tells. end(): it is over, nothing more will come.
//   poll(): asks for the present state; used where the stream cannot be had. May return true: over.
//   show("live" | "polling" | "offline" | "over"): for an indicator.
// Returns a function that ends it. A hidden page holds no connection: browsers have six for all its tabs.
export function follow(address, on, poll, show = () => {}) {
  let source = null, timer = null, retry = null, last = null, isOver = false, asking = null;

  function stream() {
    stop();
    const url = new URL(address, location.href);
    if (last !== null) url.searchParams.set("after", last);
    source = new EventSource(url);
    source.onopen = () => {
      clearInterval(timer);
      timer = null;
      show("live");
    };
    source.addEventListener("job", (event) => on.job?.(JSON.parse(event.data)));
    source.addEventListener("log", (event) => {
      last = event.lastEventId || last;
      on.log?.(JSON.parse(event.data));
    });
    source.addEventListener("end", over);
    source.onerror = () => {
      // While it is CONNECTING the browser tries again by itself; CLOSED means that it was refused.
      if (source?.readyState === EventSource.CLOSED) {
        source = null;
        retry = setTimeout(stream, TRY_STREAM_AGAIN);
      }
      askEverySoOften();
    };
  }

  function askEverySoOften() {
    if (timer === null && !isOver && !document.hidden) {
      timer = setInterval(ask, ASK_EVERY);
      ask();
    }
  }

  async function ask() {
    if (asking) return;
    asking = Promise.resolve().then(poll);
    try {
      const isDone = await asking;
      if (timer !== null) show("polling");
      if (isDone === true) over();
    } catch {
      show("offline");
    } finally {
      asking = null;
    }
  }

  function over() {
    isOver = true;
    stop();
    show("over");
    on.end?.();
  }

  function stop() {
    source?.close();
    clearInterval(timer);
    clearTimeout(retry);
    source = timer = retry = null;
  }

  function seen() {
    if (isOver) return;
    if (document.hidden) stop();
    else {
      ask();
      stream();
    }
  }

  document.addEventListener("visibilitychange", seen);
  if (!document.hidden) stream();
  return () => {
    isOver = true;
    stop();
    document.removeEventListener("visibilitychange", seen);
  };
}

// For pages without a stream: calls `ask` now and every so many ms while the page is seen. Returns what ends it.
export function every(milliseconds, ask) {
  let timer = null;
  const begin = () => {
    clearInterval(timer);
    if (document.hidden) return;
    ask();
    timer = setInterval(ask, milliseconds);
  };
  document.addEventListener("visibilitychange", begin);
  begin();
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", begin);
  };
}
