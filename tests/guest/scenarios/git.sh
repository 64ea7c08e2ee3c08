# git in a fresh directory: commits on branches, a merge and one with a conflict, a rebase, a stash, repacking, checking, clones.
# Names, dates and so all hashes are fixed.
set -e
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# A newer git in /usr/local would do some things differently.
export PATH=/usr/bin:/bin HOME=$dir GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat GIT_EDITOR=true LC_ALL=C
export GIT_AUTHOR_NAME=Ann GIT_AUTHOR_EMAIL=ann@example.org GIT_COMMITTER_NAME=Bob GIT_COMMITTER_EMAIL=bob@example.org
now=1700000000
commit() {
	now=$((now + 60))
	export GIT_AUTHOR_DATE="$now +0100" GIT_COMMITTER_DATE="$now +0100"
	git add -A
	git commit -q -m "$1"
}

git init -q -b main "$dir/work"
cd "$dir/work"
seq 1 200 > numbers
mkdir -p src/deep
for n in 1 2 3 4 5 6; do echo "file $n" > src/deep/$n.txt; done
echo '#!/bin/sh' > script && chmod +x script && ln -s script link
commit "the first"
sed -i 's/^100$/one hundred/' numbers
commit "a change"
git branch topic
echo more >> src/deep/1.txt
git rm -q src/deep/6.txt
commit "on main"
git checkout -q topic
git mv numbers digits
sed -i 's/^7$/seven/' digits
commit "on topic"
git checkout -q main
git merge -q --no-edit topic
git log --oneline --graph --stat --date=iso
git ls-tree -r HEAD
git diff --stat HEAD~1

git checkout -q -b left
sed -i 's/^50$/left/' digits
commit "left"
git checkout -q -b right main
sed -i 's/^50$/right/' digits
commit "right"
git merge left || echo "merge $?"
git diff --name-only --diff-filter=U
sed -i '/^<<<<<<<\|^=======\|^>>>>>>>/d' digits
commit "both"
sed -n 48,53p digits
git tag -a -m "a tag" v1
git checkout -q -b moved left
echo rebased > rebased && commit "to be moved"
git rebase -q right && git log --format='%h %an %cn %s' -4
echo dirty >> rebased && git stash -q && git status --short && git stash pop -q && git status --short
git checkout -q . && git blame -s digits | sed -n 48,52p
git gc -q && git count-objects -v | grep -v size && git fsck --full --strict 2>&1 && git verify-pack "$dir"/work/.git/objects/pack/*.idx && echo verified

git clone -q "$dir/work" "$dir/clone" && git -C "$dir/clone" log --format=%H -1
git clone -q --no-local --bare "file://$dir/work" "$dir/bare.git" && git -C "$dir/bare.git" for-each-ref
cd "$dir/clone"
git checkout -q -b pushed && echo pushed > pushed && commit "pushed" && git push -q "$dir/bare.git" pushed
git -C "$dir/bare.git" log --format='%H %s' -1 pushed
git archive HEAD | tar -t
git grep -n hundred
git bisect start HEAD HEAD~3 && git bisect run sh -c '! grep -q left digits'
